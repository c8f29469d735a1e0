"""Options that several commands have, each told in one place."""

from __future__ import annotations

from typing import Annotated

import typer

Precision = Annotated[str, typer.Option(help="float32 or bfloat16")]
Device = Annotated[str, typer.Option(help="As torch names it: cpu, cuda, ...")]
Threads = Annotated[
    int | None,
    typer.Option(help="CPU threads of a run.", show_default="torch's, shared by the jobs"),
]
Jobs = Annotated[int, typer.Option(help="Processes side by side.")]
Ray = Annotated[
    str | None, typer.Option(help="HOST:PORT of a Ray cluster that trains the runs instead.")
]
TensorBoard = Annotated[
    bool, typer.Option("--tensorboard", help="Write OUT/tensorboard as it goes.")
]
Gain = Annotated[
    float | None, typer.Option(help="Tell how many seeds it takes to see this difference.")
]
