"""``zeromean explain``: which parameters of a model are centered, over which axes, and why."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence

from zeromean.cli.output import Parser, echo, note, one_line_errors

HELP = "Show for every parameter of a model whether GC centers it, over which axes, and why."


def main(words: Sequence[str]) -> None:
    """Run the command with the words that follow its name."""
    from zeromean.cli.models import names, networks

    built_in = f"one of: {networks()}" if names() else networks()
    parser = Parser(
        prog="zeromean explain",
        description=HELP,
        epilog="A checkpoint knows no layers, so it is explained by the shapes of its tensors.",
    )
    parser.add_argument(
        "model",
        help="module:factory or file.py:factory (a function without arguments that returns a"
        f" torch.nn.Module), timm:NAME, a checkpoint file, or {built_in}",
    )
    parser.add_argument("--layers", default="all", help="all, conv or linear (default: all)")
    parser.add_argument(
        "--embeddings", action="store_true", help="also center embeddings, over their tokens"
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    with one_line_errors():
        options = parser.parse_args(words)
        _explain(options)


def _explain(options: argparse.Namespace) -> None:
    from zeromean.cli.models import plan_of

    plan, warning = plan_of(options.model, options.layers, options.embeddings)
    if warning:
        note(warning)
    if not options.json:
        echo(str(plan))
        return
    rows = [
        {
            "name": row.name,
            "shape": row.shape,
            "role": row.role if row.fan_in else None,
            "axes": row.axes,
            "groups": row.groups,
            "centered": row.centered,
            "reason": row.reason,
        }
        for row in plan
    ]
    print(json.dumps({"model": options.model, "parameters": rows}, indent=2))
