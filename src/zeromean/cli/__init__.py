"""The commands of the ``zeromean`` program, one file each."""

from __future__ import annotations

from zeromean.cli.app import app as app
from zeromean.cli.compare import compare
from zeromean.cli.report import report
from zeromean.cli.study import study

app.command()(compare)
app.command()(study)
app.command()(report)
