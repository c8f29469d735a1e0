"""Several small networks trained as one: their gradients come from one pass over stacked weights.

Everything else of a run stays its own: batches, optimizer, hooks, schedule, records, state.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from zeromean.reparam.parametrization import Normalized, parametrized_by
from zeromean.study.engine.train import Training, advance
from zeromean.study.problem import Batch
from zeromean.study.run import Key, Run

# Multiplications of a batch by all weights up to which a step costs more in calls than in numbers.
# Above it a stack is no faster, for its weights leave the cache.
SMALL = 8_000_000


def fits(network: nn.Module, batch_size: int) -> bool:
    """Whether networks like this one are stacked, because it can be done and is faster.

    That is so of perceptrons, whose weights may be re-parametrized, with up to ``SMALL``
    multiplications of a batch by all weights.
    """
    weights = sum(parameter.numel() for parameter in network.parameters())
    return (
        isinstance(network, nn.Sequential)
        and all(_is_stackable(layer) for layer in network)
        and batch_size * weights <= SMALL
    )


def _is_stackable(layer: nn.Module) -> bool:
    if isinstance(layer, nn.Linear):
        return layer.bias is not None and all(one.mean is None for one in _proxies(layer))
    return type(layer) in (nn.Flatten, nn.ReLU)


def _proxies(layer: nn.Module) -> list[Normalized]:
    return [*parametrized_by(layer).values()]


class StackedNetworks:
    """Networks of one shape, whose parameters become views of stacked ones.

    Args:
        networks: One or more that :func:`fits` is true of.
    """

    def __init__(self, networks: Sequence[nn.Module]) -> None:
        self._networks = networks
        self._members: list[tuple[nn.Parameter, ...]] = []
        self._stacks: dict[str, Tensor] = {}
        names = [name for name, _ in networks[0].named_parameters()]
        for name, *members in zip(names, *(one.parameters() for one in networks), strict=True):
            stack = torch.stack([one.detach() for one in members])
            for member, own in zip(members, stack, strict=True):
                member.data = own
            self._members.append(tuple(members))
            self._stacks[name] = stack.requires_grad_()

    def __call__(self, inputs: Tensor) -> Tensor:
        """The outputs, of shape (networks, examples, classes), of each network's own inputs."""
        # Features before examples: so a weight's gradient comes out laid out as the weight.
        x = inputs.flatten(2).mT
        for name, layer in self._networks[0].named_children():
            if isinstance(layer, nn.Linear):
                bias = self._stacks[f"{name}.bias"].unsqueeze(2)
                x = torch.baddbmm(bias, self._weight(name, layer), x)
            elif not isinstance(layer, nn.Flatten):
                x = layer(x)
        return x.mT

    def _weight(self, name: str, layer: nn.Linear) -> Tensor:
        for parametrization in _proxies(layer):
            originals = [
                stack.flatten(0, 1)  # of one vector an output, as if there were more outputs
                for key, stack in self._stacks.items()
                if key.startswith(f"{name}.parametrizations.weight.")
            ]
            weight: Tensor = parametrization(*originals)
            return weight.view(len(self._networks), layer.out_features, layer.in_features)
        return self._stacks[f"{name}.weight"]

    def backward(self, losses: Tensor) -> None:
        """Gives every network the gradient of its own loss, of one each."""
        gradients = torch.autograd.grad(losses.sum(), [*self._stacks.values()])
        for members, gradient in zip(self._members, gradients, strict=True):
            for member, own in zip(members, gradient, strict=True):
                member.grad = own


class Stack:
    """Runs that take turns with others as one; mostly a single one.

    Args:
        trainings: Those of its runs that are not kept yet.
        together: Whether it has several runs, of networks that :func:`fits` is true of.
    """

    def __init__(self, trainings: Sequence[Training], together: bool) -> None:
        self.trainings = trainings
        self._together = together
        self._going: list[Training] = []
        self._told: set[Key] = set()
        self._networks: StackedNetworks

    @property
    def ended(self) -> bool:
        return all(training.ended for training in self.trainings)

    @property
    def epochs(self) -> int:
        """How many have been trained."""
        return max(len(training.epochs) for training in self.trainings)

    def advance(self) -> list[Training]:
        """Trains one more epoch of all that have not ended, and returns these.

        Raises:
            ZeromeanError: The device has too little memory.
        """
        going = [training for training in self.trainings if not training.ended]
        if not self._together:
            for training in going:
                training.advance()
            return going
        if going != self._going:  # stacked anew without those that diverged
            self._going = going
            self._networks = StackedNetworks([training.network for training in going])
        advance(going, self._losses)
        return going

    def _losses(self, batches: Sequence[Batch]) -> Tensor:
        outputs = self._networks(torch.stack([batch.inputs for batch in batches]))
        loss = self.trainings[0].problem.loss
        losses = torch.stack(
            [loss(own, batch.targets) for own, batch in zip(outputs, batches, strict=True)]
        )
        self._networks.backward(losses)
        return losses.detach()

    def ended_runs(self) -> tuple[Run, ...]:
        """Those that have ended since this was last asked."""
        ended = [one for one in self.trainings if one.ended and one.key not in self._told]
        self._told.update(training.key for training in ended)
        return tuple(training.run() for training in ended)

    def state_dict(self) -> dict[str, Any]:
        """Of every run, those that have ended too: who lacks one would begin it anew."""
        return {_name(training): training.state_dict() for training in self.trainings}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for training in self.trainings:
            if (own := state.get(_name(training))) is not None:
                training.load_state_dict(own)


def _name(training: Training) -> str:
    """Of a run in the state of its stack."""
    return f"trial {training.key.trial} seed {training.key.seed}"
