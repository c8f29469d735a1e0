"""The commands of the ``zeromean`` program, one file each."""

from __future__ import annotations

from zeromean.cli.app import app as app
from zeromean.cli.bench import bench
from zeromean.cli.compare import compare
from zeromean.cli.diagnose import diagnose
from zeromean.cli.explain import explain
from zeromean.cli.report import report
from zeromean.cli.reproduce import reproduce
from zeromean.cli.study import study
from zeromean.cli.tables import tables

app.command()(bench)
app.command()(compare)
app.command()(diagnose)
app.command()(explain)
app.command()(report)
app.command()(reproduce)
app.command()(study)
app.command()(tables)
