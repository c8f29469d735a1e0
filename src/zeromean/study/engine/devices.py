"""On how many devices a run is trained: on one, or on several whose processes share its batches."""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils.parametrize import is_parametrized
from torch.optim import Optimizer

from zeromean.errors import ZeromeanError
from zeromean.study.engine.checkpoint import map_tensors
from zeromean.study.extras import of_extra
from zeromean.study.problem import Batch

# How long a process waits for the others, which may wait for other studies on the folder.
WAIT = timedelta(days=7)
# More than one process uses.
SEEDS_A_PROCESS = 2**44


class FirstEndedError(ZeromeanError):
    """The first of several processes has ended, and has said why."""


class Alone:
    """One process with one device: nothing is shared."""

    count = 1
    leads = True

    def describe(self) -> dict[str, str]:
        """For the record; what is usual goes without saying."""
        return {}

    def spread(self, network: nn.Module) -> nn.Module:
        """What is called in training; the network itself stays what has the parameters."""
        return network

    def seed(self, number: int) -> int:
        """Of what layers draw for this process's examples, such as dropout's."""
        return number

    def part(self, batch: Tensor) -> Tensor:
        """This process's examples of a batch of training."""
        return batch

    def share(self, batch: Batch) -> tuple[Batch, int]:
        """This process's examples of a batch to score, and 0 where another counts them."""
        return batch, 1

    def total(self, number: Tensor) -> Tensor:
        """The sum over all processes."""
        return number

    def align(self, network: nn.Module) -> None:
        """Gives all processes the first one's buffers."""

    def whole(self, state: dict[str, Any]) -> dict[str, Any]:
        """A state of a run as one process alone has it."""
        return state

    def cut(
        self, state: dict[str, Any], network: nn.Module, optimizer: Optimizer
    ) -> dict[str, Any]:
        """From such a state to what the network and its optimizer are here."""
        return state


class Together(Alone):
    """Processes that train one run, each with its part of every batch.

    Gradients are averaged over the processes, which have equally many examples: a step is that of
    one process with the whole batch, but for rounding.

    Args:
        device: As torch names it, without a number: each process takes its own.
        sharded: Whether weights and the optimizer's state are cut into shards (FSDP2) rather than
            copied (DDP).
    """

    def __init__(self, device: str, sharded: bool) -> None:
        with of_extra("distributed", "a run in several processes"):
            from accelerate import PartialState
        kind = torch.device(device)
        if kind.index is not None:
            raise ZeromeanError(
                f"device {device} in several processes",
                f"{kind.type}: each process takes its own",
                "leave the number out",
            )
        state = PartialState(cpu=kind.type == "cpu", timeout=WAIT)
        self.count: int = state.num_processes
        self.leads: bool = state.process_index == 0
        self.rank: int = state.process_index
        self._device: torch.device = state.device
        self._mesh: DeviceMesh | None = None
        if sharded:
            self._mesh = init_device_mesh(kind.type, (self.count,))

    def describe(self) -> dict[str, str]:
        kind = "FSDP2: shards" if self._mesh else "DDP: copies"
        return {"devices of a run": f"{self.count} ({kind} of the weights)"}

    def spread(self, network: nn.Module) -> nn.Module:
        if self._mesh is None:
            return DistributedDataParallel(network)
        for block in _blocks(network):
            fully_shard(block, mesh=self._mesh)
        fully_shard(network, mesh=self._mesh)
        return network

    def seed(self, number: int) -> int:
        return number + self.rank * SEEDS_A_PROCESS

    def part(self, batch: Tensor) -> Tensor:
        return batch.tensor_split(self.count)[self.rank]

    def share(self, batch: Batch) -> tuple[Batch, int]:
        if len(batch.targets) < self.count:  # all take part in a call, lest the others wait
            return batch, int(self.leads)
        return Batch(self.part(batch.inputs), self.part(batch.targets)), 1

    def total(self, number: Tensor) -> Tensor:
        dist.all_reduce(number)
        return number

    def align(self, network: nn.Module) -> None:
        for buffer in network.buffers():
            dist.broadcast(buffer, 0)

    def whole(self, state: dict[str, Any]) -> dict[str, Any]:
        """Of use to the first process alone; all have to call it."""

        def gather(tensor: Tensor) -> Tensor:
            if isinstance(tensor, DTensor):
                tensor = tensor.full_tensor()
            return tensor.cpu() if self.leads else tensor.new_empty(0)

        gathered: dict[str, Any] = map_tensors(gather, state)
        return gathered

    def cut(
        self, state: dict[str, Any], network: nn.Module, optimizer: Optimizer
    ) -> dict[str, Any]:
        own = network.state_dict()
        parameters = [one for group in optimizer.param_groups for one in group["params"]]
        of_parameters = {
            number: {name: _like(parameters[number], value) for name, value in values.items()}
            for number, values in state["optimizer"]["state"].items()
        }
        return {
            **state,
            "network": {name: _like(own[name], value) for name, value in state["network"].items()},
            "optimizer": {**state["optimizer"], "state": of_parameters},
        }

    def send(self, what: object) -> None:
        """From the first process to all others, which :meth:`receive` it."""
        dist.broadcast_object_list([what], 0, device=self._device)

    def receive(self) -> Any:
        """What the first process sends; waits for it.

        Raises:
            FirstEndedError: Nothing will come any more.
        """
        box: list[Any] = [None]
        try:
            dist.broadcast_object_list(box, 0, device=self._device)
        except RuntimeError as error:
            raise FirstEndedError(
                "a first process that ended", "one that sends what to train", "read what it said"
            ) from error
        return box[0]

    def meet(self) -> None:
        """Returns when all processes have come here."""
        dist.barrier()


ALONE = Alone()


def several() -> bool:
    """Whether torchrun, or what is like it, started this process as one of several."""
    return "RANK" in os.environ and int(os.environ.get("WORLD_SIZE", "1")) > 1


def leads() -> bool:
    """Whether this process is the one that writes and shows."""
    return not several() or os.environ["RANK"] == "0"


def here(device: str, sharded: bool) -> Alone:
    """The devices of this process's runs.

    Raises:
        ZeromeanError: The device has a number, and there are several processes.
    """
    return Together(device, sharded) if several() else ALONE


def _blocks(network: nn.Module) -> list[nn.Module]:
    """Parts of several layers, which are gathered one after another; single layers go together.

    None where parts share parameters, which belong to one group then.
    """
    blocks = [*_composite(network)]
    owned = [id(one) for block in blocks for one in block.parameters()]
    return blocks if len(owned) == len(set(owned)) else []


def _composite(network: nn.Module) -> Iterator[nn.Module]:
    for child in network.children():
        if isinstance(child, nn.Sequential | nn.ModuleList):
            yield from _composite(child)
        elif not is_parametrized(child) and any(True for _ in child.children()):
            yield child


def _like(own: Any, value: Any) -> Any:
    """A whole value, cut as this process's own is, where it is a tensor of that shape."""
    if isinstance(own, DTensor) and isinstance(value, Tensor) and value.shape == own.shape:
        value = value.to(own.device)
        return distribute_tensor(value, own.device_mesh, own.placements, src_data_rank=None)
    return value
