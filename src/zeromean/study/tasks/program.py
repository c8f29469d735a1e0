"""Run a training program of the user with a method, and read the metric that it reports."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import math
import os
import re
import selectors
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from filelock import FileLock, Timeout

from zeromean.errors import ZeromeanError, warn
from zeromean.programs import supervise
from zeromean.programs.command import environment, resolve
from zeromean.programs.options import Options
from zeromean.programs.record import Record, read_records
from zeromean.study.spec.method import BASELINE, Method
from zeromean.study.spec.optimizer import Optimizer
from zeromean.study.spec.program import NUMBER, SCORE, MetricSource, ProgramTask, parse_metric
from zeromean.study.spec.records import (
    FINAL,
    START_GRADIENT,
    START_WEIGHTS,
    Candidate,
    Epoch,
    Key,
    Run,
    number_text,
)
from zeromean.study.spec.study import Study
from zeromean.study.tasks.interface import Job, Progress, TaskInfo

# The metric that records whether zeromean's kernels made the steps of a run.
TAKEN_OVER = "taken_over"
LOG_BYTES = 10_000_000
LINE_BYTES = 65_536
POLL_SECONDS = 0.2
# Time to wait for the remaining output after the program has ended.
DRAIN_SECONDS = 1.0
LAST_LINES = 3
# Files that a program reads; others that its command names may be its outputs.
SOURCES = (".py", ".sh", ".yaml", ".yml", ".toml", ".json", ".cfg", ".ini")
# Of the files of a module that is named by -m.
MODULE_ENDS = (".py", "/__main__.py")
_NUMBER = re.compile(NUMBER)
# A number such as 1,234.56; three numbers in a row, such as 12,345,0.5, are none.
_THOUSANDS = re.compile(r"(?<![\d.,])[-+]?\d{1,3}(?:,\d{3})+(?![\d,])")
_ANSI = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)|\x1b[@-Z\\-_]")


class Point(NamedTuple):
    """A value that a program reported.

    Args:
        value: The value.
        seconds: Time since the program started, or nan if it is unknown.
    """

    value: float
    seconds: float = math.nan


@dataclass
class Ended:
    """A program that has ended.

    Args:
        code: Its exit code; above 128 for a signal.
        seconds: Its duration.
        timed_out: Whether it reached its time limit.
        last_lines: The end of its output.
    """

    code: int
    seconds: float
    timed_out: bool
    last_lines: list[str] = field(default_factory=list)

    @property
    def reason(self) -> str:
        """Why it failed, or an empty text."""
        if self.timed_out:
            return f"it was stopped after {self.seconds:.0f} s"
        if self.code > 128:
            try:
                return f"it was ended by {signal.Signals(self.code - 128).name}"
            except ValueError:
                pass
        return f"it ended with exit code {self.code}" if self.code else ""


class ProgramRunner:
    """A loaded program: the engine's view of a :class:`zeromean.study.ProgramTask`.

    Args:
        study: The study.
        spec: The program.
    """

    def __init__(self, study: Study, spec: ProgramTask) -> None:
        self._study, self._spec = study, spec
        self._source = parse_metric(spec.metric)
        self._tuned_by = parse_metric(spec.tune_metric or spec.metric, "tune_metric")
        self._others = [parse_metric(one, "other_metrics") for one in spec.other_metrics]
        self._failed: set[str] = set()

    @property
    def info(self) -> TaskInfo:
        """Facts for the report and the database."""
        return TaskInfo(
            description=shlex.join(self._spec.command),
            split="the program's own",
            preprocessing="the program's own",
            watched="test",
            metric=self._spec.metric_of(),
            steps=0,
            fingerprint=self._fingerprint(),
            tune_metric=self._spec.tuning_metric(),
        )

    def check(self, methods: Sequence[Method], optimizers: Sequence[Optimizer]) -> None:
        """Check that the program exists.

        Raises:
            ZeromeanError: It does not.
        """
        if "{" not in self._spec.command[0]:
            resolve(self._spec.command)

    def start(self, job: Job, state: dict[str, Any] | None = None) -> Iterator[Progress]:
        """Run the program once, to its end.

        Raises:
            ZeromeanError: No method can be applied to the program, or it fails with all of them.
        """
        run = self.run(job)
        if run.failure is not None and job.key.seed == 0 and job.key.trial == FINAL:
            self._failed.add(job.key.method)
            methods = self._study.trained_methods(job.key.optimizer)
            if self._failed.issuperset(methods):
                raise ZeromeanError(
                    f"{self._spec.label} fails with every method: {run.failure}",
                    f"The output is in {job.folder / 'log.txt'}. Correct the cause and give the"
                    " same command again; after a change of the command, the metric or the script,"
                    " pass another folder",
                )
        # Progress counts a program as one epoch, however many points its curve has.
        last = None
        if run.epochs:
            hashes = (START_WEIGHTS, START_GRADIENT)
            metrics = run.epochs[-1].metrics
            last = Epoch(1, {name: metrics[name] for name in metrics if name not in hashes})
        yield Progress(epoch=last, run=run)

    def run(self, job: Job, show: Callable[[str], None] | None = None) -> Run:
        """Run the program once.

        Args:
            job: The run.
            show: Called with each line that has the metric, or None.

        Raises:
            ZeromeanError: The method cannot be applied to the program.
        """
        spec, folder = self._spec, job.folder.absolute()
        source = self._source if job.key.trial == FINAL else self._tuned_by
        shutil.rmtree(folder, ignore_errors=True)
        records, out, work = folder / "records", folder / "out", folder / "work"
        try:
            records.mkdir(parents=True)
            out.mkdir()
            begin = out.stat().st_mtime_ns
            if spec.own_folder:
                _copy_folder(Path.cwd(), work, without=folder.parent.parent.resolve())
            copied = {
                path: path.read_bytes()
                for one in (source, *self._others)
                if one.kind in ("csv", "jsonl")
                for path in work.glob(one.file)
                if path.is_file()
            }
        except (OSError, shutil.Error) as error:
            raise ZeromeanError(
                f"the folder {folder} cannot be made ({error})", "Make room, or pass another folder"
            ) from error
        command = resolve(self.fill(job, out))
        output = OutputReader(source, show) if source.kind == "output" else OutputReader(None)
        with self._device(folder.parent) as device:
            variables = environment(self._options(job, records), os.environ)
            variables |= {"PYTHONUNBUFFERED": "1", **device}
            if self._study.threads is not None:
                variables["OMP_NUM_THREADS"] = str(self._study.threads)
            ended = execute(
                command, variables, work if spec.own_folder else None, spec.timeout, output
            )
        (folder / "log.txt").write_bytes(output.log)
        record = read_records(records)
        (folder / "record.json").write_text(record.dumps())
        shutil.rmtree(records, ignore_errors=True)
        _check_record(record, job.method, ended)
        places = [out, work] if spec.own_folder else [out]
        found, failure = {source.name: output.points}, ended.reason
        others = self._others if job.key.trial == FINAL else []
        for one in (source, *others):
            if one.kind != "output" and not failure:
                try:
                    found[one.name] = read_points(one, places, begin, copied)
                except (
                    OSError, ValueError, OverflowError, RecursionError, csv.Error,
                ) as error:  # fmt: skip
                    failure = f"{one.name} cannot be read: {error}"
            if not failure and not found[one.name]:
                failure = f"it reported no {one.name} ({one.describe()})"
        points = found.pop(source.name)
        if failure:
            failure = f"{failure}; {' / '.join(ended.last_lines) or 'no output'}"[:500]
        elif spec.own_folder:
            shutil.rmtree(work, ignore_errors=True)
        return self._make_run(job, points, found, ended, failure or None, _recorded(record))

    def fill(self, job: Job, out: Path) -> list[str]:
        """Return the command of a run with its placeholders filled in.

        Args:
            job: The run.
            out: Folder for ``{out}``.
        """
        values = {name: number_text(value) for name, value in job.candidate.values}
        values |= {"seed": str(job.key.seed), "out": str(out), "port": str(_free_port())}
        words = [*self._spec.command, *job.method.arguments]
        names = "|".join(map(re.escape, values))
        return [re.sub(rf"\{{({names})\}}", lambda m: values[m[1]], word) for word in words]

    def _options(self, job: Job, records: Path) -> Options:
        method, spec = job.method, self._spec
        at, layers, scope = _centering(method)
        # A method that would be refused is noticed in the first run, which is one of plain.
        others = dict.fromkeys(
            _centering(one) for one in self._study.methods if one.gradient not in (None, "zscore")
        )
        return Options(
            records=str(records),
            method={None: "plain", "zscore": "zscore"}.get(method.gradient, "gc"),  # type: ignore[arg-type]
            at=at,
            layers=layers,
            scope=scope,
            rehearse=tuple(others) if method.gradient is None and not spec.skip_refused else (),
            weight_decay=spec.weight_decay,
            skip_refused=spec.skip_refused,
            seed=None if spec.has("seed") else job.key.seed,
            shift_seeds=job.key.seed if spec.shift_seeds else None,
        )

    def _make_run(
        self,
        job: Job,
        points: Sequence[Point],
        others: Mapping[str, Sequence[Point]],
        ended: Ended,
        failure: str | None,
        recorded: Mapping[str, float],
    ) -> Run:
        epochs, before = [], 0.0
        for number, point in enumerate(points, 1):
            timed = math.isfinite(point.seconds)
            seconds = point.seconds - before if timed else ended.seconds / len(points)
            before = point.seconds if timed else before
            metrics = {SCORE: point.value, **recorded}
            back = len(points) - number + 1  # the last values belong to the last point
            metrics |= {
                name: found[-back].value for name, found in others.items() if back <= len(found)
            }
            epochs.append(Epoch(number, metrics, seconds))
        final, score = job.key.trial == FINAL, None
        metric = self._spec.metric_of() if final else self._spec.tuning_metric()
        values = [point.value for point in points]
        if values and failure is None:
            finite = [value for value in values if math.isfinite(value)]
            score = values[-1]
            if self._spec.best and finite:
                score = max(finite) if metric.higher_is_better else min(finite)
                if not final and math.isfinite(values[-1]):  # tuning reads the last score
                    metrics = {**epochs[-1].metrics, SCORE: score}
                    epochs = [*epochs[:-1], replace(epochs[-1], metrics=metrics)]
        return Run(
            job.key,
            job.candidate,
            tuple(epochs),
            test_score=score if final else None,
            failure=failure,
        )

    @contextmanager
    def _device(self, folder: Path) -> Iterator[dict[str, str]]:
        """Reserve a device that no other run of the study uses."""
        if not self._spec.devices:
            yield {}
            return
        while True:
            for device in self._spec.devices:
                lock = FileLock(folder / f"device-{device.replace('/', '_')}.lock")
                try:
                    lock.acquire(blocking=False)
                except Timeout:
                    continue
                try:
                    yield {"CUDA_VISIBLE_DEVICES": device}
                finally:
                    lock.release()
                return
            time.sleep(POLL_SECONDS)

    def _fingerprint(self) -> str:
        """Digest of the command, and of the scripts and settings that it or a method names."""
        digest = hashlib.sha256(json.dumps(self._spec.command).encode())
        added = [word for method in self._study.methods for word in method.arguments]
        words = [*self._spec.command, *added]
        modules = [two.replace(".", "/") for one, two in pairwise(words) if one == "-m"]
        for word in [*words, *(f"{path}{end}" for path in modules for end in MODULE_ENDS)]:
            name = word if os.path.isfile(word) else word.partition("=")[2]  # --config=a.yaml
            if name.endswith(SOURCES) and os.path.isfile(name):
                digest.update(Path(name).read_bytes())
        return digest.hexdigest()[:16]


class OutputReader:
    """Keeps a program's log, within bounds, and finds the metric in its lines.

    Args:
        source: The metric, or None if it is in a file.
        show: Called with each line that has the metric, or None.
    """

    def __init__(
        self, source: MetricSource | None, show: Callable[[str], None] | None = None
    ) -> None:
        text = "" if source is None else source.pattern
        self._pattern = re.compile(text.replace("NUMBER", NUMBER)) if text else None
        self._text, self._show = text, show
        self._head, self._tail, self._line = bytearray(), bytearray(), bytearray()
        self._left_out = False
        self._warned = False
        self.points: list[Point] = []
        self.last_lines: list[str] = []

    @property
    def log(self) -> bytes:
        """The head and the tail of the output."""
        middle = b"\n[...]\n" if self._left_out else b""
        return bytes(self._head) + middle + bytes(self._tail)

    def add(self, data: bytes, seconds: float) -> None:
        """Add output.

        Args:
            data: The output.
            seconds: Time since the program started.
        """
        room = max(0, LOG_BYTES // 2 - len(self._head))
        self._head += data[:room]
        self._tail += data[room:]
        if len(self._tail) > LOG_BYTES // 2:
            self._left_out = True
            del self._tail[: -LOG_BYTES // 2]
        *lines, rest = re.split(rb"[\r\n]", bytes(self._line) + data)
        for line in lines:
            self._read(line, seconds)
        self._line = bytearray(rest[-LINE_BYTES:])

    def finish(self, seconds: float) -> None:
        """Read a last line that has no end."""
        self._read(bytes(self._line), seconds)
        self._line.clear()

    def _read(self, data: bytes, seconds: float) -> None:
        line = _ANSI.sub("", data[-LINE_BYTES:].decode(errors="replace"))
        if line.strip(" \t^~"):  # not the marks below a line of a traceback
            printable = "".join(one if one.isprintable() else " " for one in line)
            self.last_lines = [*self.last_lines, printable.strip()[-200:]][-LAST_LINES:]
        if self._pattern is None:
            return
        match = None
        for match in self._pattern.finditer(line):  # noqa: B007
            pass
        if match is None or match[1] is None:
            return
        try:
            value = float(match[1])
        except ValueError as error:
            raise ZeromeanError(
                f"the pattern {self._text!r} found {match[1]!r}, which is not a number",
                "Put NUMBER in the place of the number",
            ) from error
        if not self._warned and (fix := _part_of_number(line, match)):
            self._warned = True
            warn(
                f"The pattern {self._text!r} reads {match[1]!r} from {line.strip()[:200]!r}, only a"
                f" part of the number there. {fix}."
            )
        self.points.append(Point(value, seconds))
        if self._show is not None:
            self._show(line.strip())


def _part_of_number(line: str, match: re.Match[str]) -> str | None:
    """Return what to do if the first group matched only a part of a number, or None."""
    start = match.end(1) - len(match[1].lstrip())
    if any(one.start() <= start < one.end() for one in _THOUSANDS.finditer(line)):
        return "Let the program print the number without commas"
    whole = _NUMBER.match(line, start)
    if whole is None or str(float(whole[1])) != str(float(match[1])):
        return "Put NUMBER in the place of the number"
    return None


def execute(
    command: Sequence[str],
    variables: Mapping[str, str],
    folder: Path | None,
    timeout: float | None,
    output: OutputReader,
) -> Ended:
    """Run a command to its end, its time limit or an interruption of this process.

    Args:
        command: The words of the command.
        variables: Its environment.
        folder: Its working folder, or None for the current one.
        timeout: Its time limit in seconds, or None.
        output: Receives what it prints.
    """
    begin = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-I", "-S", supervise.__file__, *command],
        env=dict(variables),
        cwd=folder,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    timed_out = False
    try:
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ)
            ended_at = None
            while True:
                ready = selector.select(POLL_SECONDS)
                now = time.monotonic()
                if ready:
                    data = os.read(process.stdout.fileno(), 1 << 16)
                    if not data:
                        break
                    output.add(data, now - begin)
                if timeout is not None and now - begin > timeout and not timed_out:
                    timed_out = True
                    process.stdin.close()
                # A process that left the group may keep the pipe open.
                if process.poll() is not None:
                    ended_at = ended_at or now
                    if not ready or now - ended_at > DRAIN_SECONDS:
                        break
        output.finish(time.monotonic() - begin)
    finally:
        if not process.stdin.closed:
            if process.poll() is None and sys.exc_info()[0] is None:
                timed_out |= not _ended_in_time(process, timeout, begin)
            process.stdin.close()
        code = process.wait()
        process.stdout.close()
    return Ended(code, time.monotonic() - begin, timed_out, output.last_lines)


def _ended_in_time(process: subprocess.Popen[bytes], timeout: float | None, begin: float) -> bool:
    """Wait for a program that has closed its output; return whether it kept its time limit."""
    left = None if timeout is None else max(0.0, timeout - (time.monotonic() - begin))
    try:
        process.wait(left)
    except subprocess.TimeoutExpired:
        return False
    return True


def read_points(
    source: MetricSource,
    folders: Sequence[Path],
    begin: int = 0,
    copied: Mapping[Path, bytes] = MappingProxyType({}),
) -> list[Point]:
    """Read the values of a metric from the newest file that its pattern matches.

    Args:
        source: The metric.
        folders: The folders that the file may be below.
        begin: Time in nanoseconds; older files, which are copies, do not count.
        copied: Content of files that were there before the program began. Rows that it appended
            to one of them count alone.

    Raises:
        ValueError, OverflowError, RecursionError, csv.Error: There is no such file, or it has no
            such values.
        OSError: It cannot be read.
    """
    paths = [path for folder in folders for path in folder.glob(source.file) if path.is_file()]
    newest = max(paths, key=lambda path: path.stat().st_mtime_ns, default=None)
    if newest is None or newest.stat().st_mtime_ns < begin:
        places = " or ".join(map(str, folders))
        raise ValueError(f"the program wrote no file {source.file} below {places}")
    content, before = newest.read_bytes(), copied.get(newest, b"")
    points = _parse(source, content)
    if before and content.startswith(before) and content != before:
        return points[len(_parse(source, before)) :]
    return points


def _parse(source: MetricSource, content: bytes) -> list[Point]:
    """Return the values of a metric in the content of a file."""
    text = content.decode("utf-8-sig", errors="replace")
    # Not splitlines: the texts in CSV and JSON may contain other line separators.
    if source.kind == "csv":
        rows = list(csv.DictReader(io.StringIO(text, newline="")))
        if rows and source.key not in rows[0]:
            raise ValueError(f"{source.file} has the columns {', '.join(map(str, rows[0]))}")
        return [Point(float(row[source.key])) for row in rows if row[source.key]]
    if source.kind == "json":
        value = json.loads(text)
        for part in source.key.split("."):
            if not isinstance(value, dict) or part not in value:
                raise ValueError(f"{source.file} has no {source.key}")
            value = value[part]
        values = value if isinstance(value, list) else [value]
        return [Point(_number(one)) for one in values]
    lines = [json.loads(line) for line in text.split("\n") if line.strip()]
    return [
        Point(_number(line[source.key]))
        for line in lines
        if isinstance(line, dict) and source.key in line
    ]


def _number(value: Any) -> float:
    if value is None:
        return math.nan
    if isinstance(value, (int, float, str)):
        return float(value)
    raise ValueError(f"{value!r} is not a number")


def _centering(method: Method) -> tuple[Any, Any, Any]:
    """Return ``at``, ``layers`` and ``scope`` of a method."""
    return (
        method.at,
        "conv" if method.gradient == "gc-conv" else "all",
        "tensor" if method.gradient == "gc-tensor" else "vector",
    )


def _recorded(record: Record) -> dict[str, float]:
    """Return numbers on a run: the way of its steps if it is centered, and how it began."""
    steps = [one.step for one in record.optimizers if one.centered]
    found = {}
    if steps:
        found[TAKEN_OVER] = sum(step == "taken over" for step in steps) / len(steps)
    for name, digest in ((START_WEIGHTS, record.weights), (START_GRADIENT, record.gradient)):
        if digest:
            found[name] = float(int(digest[:13], 16))  # exact: it has 52 bits
    return found


def _check_record(record: Record, method: Method, ended: Ended) -> None:
    """Raise if the method did not act in the program; warn of failed checks and remarks."""
    for text in record.warnings:
        warn(f"In a run of {method.label}: {text.rstrip('.')}.")
    itself = next((one for one in record.optimizers if one.state == "already centralized"), None)
    if itself is not None and (method.label == BASELINE or method.gradient is not None):
        raise ZeromeanError(
            f"the program centralizes its {itself.optimizer} itself, so plain would be centered"
            " too",
            "Remove centralize or zeromean's optimizer from the program, or make it an option of"
            " the program and compare that: --variant",
        )
    if method.gradient is not None:
        for one in record.optimizers:
            if one.missed:
                warn(f"In a run of {method.label}: {one.sentence().rstrip('.')}.")
    if record.faults:
        raise ZeromeanError(
            "; ".join(record.faults),
            "To leave this optimizer alone, pass --skip-refused, or set skip_refused = true in a"
            " study file"
            if record.refused
            else "Correct this, and give the command again",
        )
    if not ended.reason and not record.acted:
        plain = method.label == BASELINE
        what = "no optimizer was reached" if plain else f"{method.label} centers nothing"
        raise ZeromeanError(
            f"{what}: {record.causes()}",
            "Check what zeromean run reports for this program" if plain else "Leave it out",
        )


def _copy_folder(source: Path, target: Path, without: Path) -> None:
    """Copy a folder, without the folder of the study if that is inside.

    Raises:
        ZeromeanError: The copy would contain itself.
    """
    if source.is_relative_to(without) and target.resolve().is_relative_to(source):
        raise ZeromeanError(
            f"out {without} is or contains the working folder, whose copies would contain"
            " themselves",
            "Pass another folder",
        )

    def ignore(folder: str, names: list[str]) -> list[str]:
        return [name for name in names if Path(folder, name) == without]

    shutil.copytree(source, target, symlinks=True, ignore=ignore)
    for copy in target.rglob("*"):
        if copy.is_symlink():
            original = Path(os.path.realpath(source / copy.relative_to(target)))
            if original.is_relative_to(source):  # an absolute link would leave the copy
                original = target / original.relative_to(source)
            copy.unlink()
            copy.symlink_to(original)


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def first_job(study: Study, folder: Path) -> Job:
    """Return the run of plain training with the first seed, for a dry run.

    Args:
        study: A study of one program.
        folder: Folder for the files of the run.
    """
    values = study.tuning.values if study.tuning is not None else {}
    candidate = Candidate(math.nan, None, tuple((n, v[0]) for n, v in sorted(values.items())))
    key = Key(study.tasks[0].label, study.optimizer_labels[0], BASELINE, 0)
    return Job(key, candidate, study.method(BASELINE), study.optimizers[0], 1, folder)
