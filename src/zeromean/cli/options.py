"""Options that several commands share."""

from __future__ import annotations

from typing import Annotated

import typer

Precision = Annotated[str, typer.Option(help="float32 or bfloat16.")]
Device = Annotated[str, typer.Option(help="Device of torch, such as cpu or cuda.")]
Threads = Annotated[
    int | None,
    typer.Option(
        help="CPU threads per run.",
        show_default="torch's, shared by the jobs; for programs, their own",
    ),
]
Jobs = Annotated[int, typer.Option(help="Number of runs that train at the same time.")]
Ray = Annotated[
    str | None, typer.Option(help="HOST:PORT of a Ray cluster that trains the runs instead.")
]
TensorBoard = Annotated[
    bool, typer.Option("--tensorboard", help="Write OUT/tensorboard during training.")
]
MinEffect = Annotated[
    float | None,
    typer.Option(
        help="Show the number of seeds that detect this difference, such as 0.01 for one point."
    ),
]


def split_names(text: str) -> tuple[str, ...]:
    """Return the names in a text that separates them by commas."""
    return tuple(name.strip() for name in text.split(","))
