"""``zeromean explain``: what would be centered of a model, over which axes, and why."""

from __future__ import annotations

import json as text
import sys
from typing import Annotated

import typer


def explain(
    model: Annotated[
        str,
        typer.Option(help="timm:NAME, module:factory, or a checkpoint (its shapes alone)"),
    ],
    layers: Annotated[str, typer.Option(help="all, conv or linear")] = "all",
    embeddings: Annotated[
        bool, typer.Option("--embeddings", help="Center embeddings too, over their tokens.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="JSON instead of a table.")] = False,
) -> None:
    """Tell for every parameter of a model whether it is centered, over which axes, and why.

    A factory is a function without arguments that returns a torch.nn.Module. A checkpoint knows no
    layers, so it is explained by the shapes of its tensors, as the published code goes.
    """
    from zeromean.cli.planned import plan_of

    plan, doubt = plan_of(model, layers, embeddings)
    if doubt:
        print(f"zeromean: {doubt}", file=sys.stderr)
    if not json:
        print(plan)
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
    print(text.dumps({"model": model, "parameters": rows}, indent=2))
