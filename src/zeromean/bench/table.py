"""The results as one page of markdown tables."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch

from zeromean.bench.run import Benchmark, Match, Result
from zeromean.bench.tensors import TENSORS
from zeromean.bench.timing import Duel
from zeromean.bench.training import BATCH, SIDE
from zeromean.bench.work import OPTIMIZERS

NOTHING = "\N{EN DASH}"
PREAMBLE = """\
Each contestant has tensors of its own and takes turns with {base}, step by step. "Ratio" is the
median over {repeats} rounds of its time by that of {base}, without GC, in the same round; "middle
half" is where half of the rounds' ratios lie: where that is wide, the machine was busy."""


def markdown(benchmark: Benchmark) -> str:
    """The page.

    Args:
        benchmark: What was measured.
    """
    settings = benchmark.settings
    facts = ", ".join(f"{name} {value}" for name, value in benchmark.environment.items())
    base = benchmark.matches[0].base.name
    parts = [
        "# What an optimizer step costs with GC",
        f"`{settings.command()}`",
        facts,
        PREAMBLE.format(base=base, repeats=settings.repeats),
        *(_match(match) for match in benchmark.matches),
    ]
    if benchmark.traffic:
        parts.append(_traffic(benchmark))
    parts.append(_kept(benchmark))
    if benchmark.training:
        parts.append(_training(benchmark))
    return "\n\n".join(parts) + "\n"


def _match(match: Match) -> str:
    tensors = TENSORS[match.tensors]
    seconds = match.base_seconds
    rows: list[Sequence[str]] = [
        (match.base.name, "no", NOTHING if seconds is None else _ms(seconds), "1.00", NOTHING)
    ]
    rows += [_result(result) for result in match.results]
    title = f"## {OPTIMIZERS[match.optimizer].name}, {tensors.title}"
    size = f"{len(tensors.shapes())} tensors, {tensors.count():,} parameters"
    return f"{title}\n\n{size}\n\n" + _table(("step", "GC at", "ms", "ratio", "middle half"), rows)


def _result(result: Result) -> Sequence[str]:
    name, at = result.contestant.name, result.contestant.centers or "no"
    if isinstance(result.outcome, str):
        return name, at, result.outcome, NOTHING, NOTHING
    return name, at, *_times(result.outcome)


def _times(times: Duel) -> tuple[str, str, str]:
    low, high = times.quartiles
    return _ms(times.seconds), f"{times.ratio:.2f}", f"{low:.2f} to {high:.2f}"


def _ms(seconds: float) -> str:
    return f"{1e3 * seconds:.3g}" if seconds < 0.1 else f"{1e3 * seconds:.0f}"


def _traffic(benchmark: Benchmark) -> str:
    rows = [
        (
            f"{OPTIMIZERS[optimizer].name}, {TENSORS[tensors].title}",
            str(found.bytes_moved),
            f"{found.step_rate / 1e9:.1f}",
            f"{found.copy_rate / 1e9:.1f}",
            f"{found.share:.0%}",
        )
        for (tensors, optimizer), found in benchmark.traffic.items()
    ]
    return (
        "## Memory traffic of zeromean.optim, at gradient\n\n"
        "What a step must read and write, by its time; a copy of as many numbers, timed in turn"
        " with it, moves 8 bytes a number (the lines that it fetches only to overwrite them are not"
        " counted, so a step may come to more than 100%).\n\n"
        + _table(("step", "bytes a parameter", "GB/s", "copy, GB/s", "share"), rows)
    )


def _kept(benchmark: Benchmark) -> str:
    settings = benchmark.settings
    tensors = TENSORS[settings.tensors[0]]
    types = sorted({dtype for _, dtype in benchmark.kept}, key=lambda dtype: -dtype.itemsize)
    contestants = dict.fromkeys(contestant for contestant, _ in benchmark.kept)
    rows = [
        (
            contestant.name,
            *(_bytes(benchmark.kept[contestant, dtype], tensors.vectors()) for dtype in types),
        )
        for contestant in contestants
    ]
    return (
        f"## Memory kept between steps\n\n"
        f"Bytes of tensors beyond torch's own, {OPTIMIZERS[settings.optimizers[-1]].name} on"
        f" {tensors.title} ({tensors.vectors():,} weight vectors).\n\n"
        + _table(("step", *map(_type, types)), rows)
    )


def _type(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _bytes(count: int, vectors: int) -> str:
    return f"{count:,} ({count / vectors:g} a weight vector)" if count else "0"


def _training(benchmark: Benchmark) -> str:
    rows = [
        (
            f"{OPTIMIZERS[optimizer].name}, {contestant.name}",
            _ms(times.seconds),
            f"{times.ratio:.3f}",
            "{:.3f} to {:.3f}".format(*times.quartiles),
        )
        for (optimizer, contestant), times in benchmark.training.items()
    ]
    return (
        f"## A whole training step: ResNet-18, batch {BATCH}\n\n"
        f"Images of {SIDE}x{SIDE}; forward, backward and step, beside the same without GC.\n\n"
        + _table(("step", "ms", "ratio", "middle half"), rows)
    )


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
