"""The parts that the training programs share: arguments, processes, metrics and checkpoints."""

from __future__ import annotations

import argparse
import json
import math
import os
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
from torch import nn

Number = TypeVar("Number", int, float)
SUFFIXES = (
    *(".bmp", ".gif", ".jfif", ".jpe", ".jpeg", ".jpg"),
    *(".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"),
)
# Errors of torch.load, whose unpickler does not check what it reads.
UNREADABLE = (
    *(OSError, EOFError, RuntimeError, pickle.UnpicklingError),
    *(AttributeError, IndexError, KeyError, TypeError, ValueError),
)


def at_least(low: Number, high: float = math.inf) -> Callable[[str], Number]:
    """Return a type of argparse: a number of the type of ``low``, from ``low`` to ``high``."""

    def parse(text: str) -> Number:
        number = type(low)(text)
        if not low <= number <= high:
            limit = "" if high == math.inf else f" and at most {high}"
            raise argparse.ArgumentTypeError(f"{text} is not at least {low}{limit}")
        return number

    parse.__name__ = "whole number" if isinstance(low, int) else "number"
    return parse


def is_hidden(name: str) -> bool:
    """Return whether a file or folder of that name is hidden or made by an operating system."""
    return name.startswith(".") or name in ("@eaDir", "__MACOSX")


def is_image(file: Path, root: Path) -> bool:
    """Return whether a file is an image, and nothing on its way from the root is hidden."""
    return file.suffix.lower() in SUFFIXES and not any(map(is_hidden, file.relative_to(root).parts))


def make_parser(description: str | None, out: str) -> argparse.ArgumentParser:
    """Return a parser with the arguments of all programs."""
    formatter = argparse.RawTextHelpFormatter
    parser = argparse.ArgumentParser(description=description, formatter_class=formatter)
    parser.add_argument("--seed", type=at_least(0), default=0)
    parser.add_argument("--amp", action="store_true", help="bfloat16 autocast")
    parser.add_argument(
        "--resume", action="store_true", help="continue from OUT/last.pt if it exists"
    )
    parser.add_argument("--out", type=Path, default=Path(out))
    return parser


def add_device(parser: argparse.ArgumentParser) -> None:
    """Add the device of the program, on which ``join`` puts its processes."""
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")


class Processes(NamedTuple):
    """The processes of a run, such as those of torchrun."""

    count: int = 1
    rank: int = 0
    device: torch.device = torch.device("cpu")

    def wrap(self, model: nn.Module) -> nn.Module:
        """Return the model that averages the gradients of all processes."""
        return nn.parallel.DistributedDataParallel(model) if self.count > 1 else model


def join(args: argparse.Namespace, parser: argparse.ArgumentParser, shared: str) -> Processes:
    """Join the processes of the run and seed this one.

    Args:
        args, parser: Arguments of the program.
        shared: Option whose number is split over the processes.
    """
    count, rank = int(os.environ.get("WORLD_SIZE", 1)), int(os.environ.get("RANK", 0))
    total = getattr(args, shared.lstrip("-").replace("-", "_"))
    if total % count:
        parser.error(f"{shared} {total} cannot be split over {count} processes")
    try:
        device = torch.device(args.device)
        if count > 1 and device.index is not None:
            parser.error(f"--device {device} is one device, but there are {count} processes")
        if count > 1 and device.type == "cuda":
            device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
            torch.cuda.set_device(device)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:  # AssertionError: torch is built without CUDA
        parser.error(f"--device {args.device} cannot be used: {first_line(error)}")
    if count > 1:
        torch.distributed.init_process_group()
    torch.manual_seed(args.seed)
    return Processes(count, rank, device)


def load_weights(model: nn.Module, path: str, fresh: str) -> None:
    """Load the weights of a file, except for those whose names start with ``fresh``."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except UNREADABLE as error:
        raise SystemExit(f"{path} cannot be read as weights: {first_line(error)}") from None
    for key in ("state_dict", "model"):
        if isinstance(state, dict):
            state = state.get(key, state)
    if not isinstance(state, dict) or not all(isinstance(name, str) for name in state):
        raise SystemExit(f"{path} has no names and weights")

    def loaded(named: dict[str, Any]) -> dict[str, Any]:
        # Files of old versions of torch have no counts of batches; nothing here uses them.
        ignored = "num_batches_tracked"
        return {k: v for k, v in named.items() if not k.startswith(fresh) and ignored not in k}

    state, own = loaded(state), loaded(model.state_dict())
    missing = [k for k, v in own.items() if getattr(state.get(k), "shape", None) != v.shape]
    if missing:
        raise SystemExit(f"{path} lacks {len(missing)} of {len(own)} tensors, {missing[0]} first")
    unknown = [k for k in state if k not in own]
    if unknown:
        raise SystemExit(
            f"the network lacks {len(unknown)} of the {len(state)} tensors of {path},"
            f" {unknown[0]} first"
        )
    model.load_state_dict(state, strict=False)


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message."""
    return str(error).partition("\n")[0]


class Record:
    """The metrics and the checkpoint of a run, in its folder.

    Args:
        args: Arguments of the program.
        processes: Processes of the run, of which the first one writes.
        parts: The tensors and objects with a state that a checkpoint holds.
        unit: The unit in which training is counted.
    """

    def __init__(
        self,
        args: argparse.Namespace,
        processes: Processes,
        parts: dict[str, Any],
        unit: str = "epoch",
    ) -> None:
        try:
            args.out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise SystemExit(f"--out {args.out} cannot be used as a folder: {error}") from None
        self._seed, self._processes, self._parts, self._unit = args.seed, processes, parts, unit
        self._metrics, self._last = args.out / "metrics.jsonl", args.out / "last.pt"
        self.begun = 0
        if args.resume and self._last.exists():
            try:
                self._load(torch.load(self._last, processes.device, weights_only=True))
            except UNREADABLE as error:
                raise SystemExit(
                    f"--resume cannot continue from {self._last} with these options:"
                    f" {first_line(error)}"
                ) from None
        else:
            self._metrics.unlink(missing_ok=True)

    def _load(self, state: dict[str, Any]) -> None:
        for name, part in self._parts.items():
            if isinstance(part, torch.Tensor):
                part.data.copy_(state[name])
            else:
                part.load_state_dict(state[name])
        self.begun = state[self._unit]
        if self._processes.rank == 0 and self._metrics.exists():
            # A program that is killed between write and save has written an epoch that it repeats.
            lines = self._metrics.read_text().splitlines(keepends=True)
            kept = [line for line in lines if self._is_done(line)]
            self._metrics.with_suffix(".tmp").write_text("".join(kept))
            self._metrics.with_suffix(".tmp").replace(self._metrics)

    def _is_done(self, line: str) -> bool:
        """Return whether a line of the metrics is whole and not after the checkpoint."""
        try:
            return json.loads(line)[self._unit] <= self.begun
        except ValueError:
            return False

    def epochs(self, count: int) -> Iterator[int]:
        """Yield the epochs that are left, and seed each."""
        processes = self._processes
        for epoch in range(self.begun, count):
            seed = (self._seed * 1000 + epoch) * processes.count + processes.rank + 1
            torch.manual_seed(seed)
            yield epoch

    def check(self, done: int, loss: float) -> None:
        """End the program if the loss is not finite."""
        if not math.isfinite(loss):
            raise SystemExit(f"{self._unit} {done}: the loss is {loss}")

    def write(self, done: int, metrics: dict[str, float], seconds: float) -> None:
        """Print the metrics and append them to the file of metrics."""
        if self._processes.rank == 0:
            words = [f"{name} {value:.4f}" for name, value in metrics.items()]
            print(f"{self._unit} {done}", *words, flush=True)
            with self._metrics.open("a") as file:
                line = {self._unit: done, "seconds": seconds, **metrics}
                file.write(json.dumps(line) + "\n")

    def save(self, done: int) -> None:
        """Replace the checkpoint, and let all processes wait for it."""
        if self._processes.rank == 0:
            state = {
                name: part.detach() if isinstance(part, torch.Tensor) else part.state_dict()
                for name, part in self._parts.items()
            }
            torch.save({**state, self._unit: done}, self._last.with_suffix(".tmp"))
            self._last.with_suffix(".tmp").replace(self._last)
        if self._processes.count > 1:
            torch.distributed.barrier()
