"""The conditioning of the Fisher information of a layer's weights."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.func import functional_call, jacrev, vmap
from torch.nn.utils import parametrize

from zeromean.diagnose.batches import Batches, Pair, check_classes, count, pairs, run
from zeromean.diagnose.lanczos import Product, flat, ritz_values, split_like
from zeromean.diagnose.layers import (
    Layer,
    check_model,
    differentiable,
    forward_hooks,
    layers_of,
    unchanged,
)
from zeromean.diagnose.result import GRAY, GREEN, ORANGE, Diagnostic, number
from zeromean.errors import ZeromeanError
from zeromean.plan import check_option
from zeromean.tables import Table

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Array = npt.NDArray[np.float64]
Likelihood = Literal["categorical", "gaussian"]

# Number of weights up to which the matrix is computed: 4096 take 134 MB and some seconds.
MAX_EXACT_SIZE = 4096
# Dimension of the Krylov spaces of an estimate, and number of probes of its trace.
LANCZOS_STEPS, TRACE_PROBES = 64, 16
# Entries of Jacobians in memory at a time.
MAX_JACOBIAN_ENTRIES = 2**24


@dataclass(frozen=True, eq=False, repr=False)
class FisherCondition(Diagnostic):
    r"""The condition numbers of the Fisher information F of some layers' weights.

    Args:
        layers: Name of each weight tensor.
        condition: :math:`|\lambda|_{max} / |\lambda|_{min}`; inf if the smallest is zero up to
            rounding, as with a softmax output. This and the next four have shape (layers,).
        pseudo_condition: Condition number over the eigenvalues above ``threshold`` times the
            largest.
        damped_condition: :math:`(\lambda_{max} + \delta) / (\lambda_{min} + \delta)` with
            :math:`\delta` = ``damping`` times the mean eigenvalue.
        rank: Number of eigenvalues above the threshold; nan if they are estimated.
        size: Number of weights that the layer trains, the dimension of F.
        eigenvalues: Eigenvalues of each layer, ascending; Ritz values if they are estimated.
        methods: "exact" or "Lanczos estimate" for each layer.
        threshold: Threshold relative to the largest eigenvalue.
        damping: Damping relative to the mean eigenvalue.
    """

    layers: tuple[str, ...]
    condition: Array
    pseudo_condition: Array
    damped_condition: Array
    rank: Array
    size: Array
    eigenvalues: tuple[Array, ...]
    methods: tuple[str, ...]
    threshold: float
    damping: float

    title: ClassVar[str] = "Conditioning of the Fisher information"
    caption: ClassVar[str] = (
        "Eigenvalues, or an estimate's Ritz values, from the largest to the smallest; the dashed"
        " lines are the thresholds."
    )
    source: ClassVar[str] = "Huang et al. 2017, Fig. 2 c"

    @property
    def answer(self) -> str:
        parts = [
            f"{number(value)} for {name}"
            + (" (Lanczos estimate, a lower bound)" if method != "exact" else "")
            for name, value, method in zip(
                self.layers, self.pseudo_condition, self.methods, strict=True
            )
        ]
        return (
            f"Pseudo-condition number over eigenvalues above {self.threshold:g} of the largest:"
            f" {', '.join(parts)}. Damped by {self.damping:g} of the mean eigenvalue:"
            f" {', '.join(map(number, self.damped_condition))}. The ideal is 1."
        )

    def table(self) -> Table:
        rows = [
            (
                name,
                f"{self.size[n]:.0f}",
                "-" if np.isnan(self.rank[n]) else f"{self.rank[n]:.0f}",
                number(self.condition[n]),
                number(self.pseudo_condition[n]),
                number(self.damped_condition[n]),
                number(float(self.eigenvalues[n][-1])),
                self.methods[n],
            )
            for n, name in enumerate(self.layers)
        ]
        header = "layer", "weights", "rank", "condition", "pseudo", "damped", "largest", "method"
        return Table(header, rows)

    def _draw(self, axes: Sequence[Axes], label: str | None, color: str) -> None:
        (one,) = axes
        colors = (color, ORANGE, GREEN, GRAY)
        for index, (name, values) in enumerate(zip(self.layers, self.eigenvalues, strict=True)):
            kept = np.sort(values)[::-1]
            kept = kept[kept > 0.01 * self.threshold * kept[0]]
            places = np.arange(1, len(kept) + 1)
            exact = self.methods[index] == "exact"
            entry = name if exact else f"{name} (estimate)"
            entry = entry if label is None else f"{label}, {entry}"
            style = colors[index % len(colors)]
            one.plot(places, kept, "-" if exact else ".", color=style, linewidth=1.5, label=entry)
            one.axhline(self.threshold * kept[0], color=style, linewidth=0.8, linestyle="--")
        one.set_yscale("log")
        one.set_xlabel("eigenvalue, from the largest")
        one.set_ylabel("value")
        one.legend(frameon=False)


def fisher_condition(
    model: nn.Module,
    batches: Batches,
    layers: Sequence[str] | None = None,
    *,
    likelihood: Likelihood | None = None,
    threshold: float = 1e-10,
    damping: float = 1e-2,
    method: Literal["auto", "exact", "lanczos"] = "auto",
) -> FisherCondition:
    r"""Compute the conditioning of the Fisher information of a layer's weights.

    .. math:: F = E_x E_{y \sim p(y|x)} [\nabla \log p(y|x) \, \nabla \log p(y|x)^T]

    over the weights of one layer, with all other layers fixed. The labels y follow the model's own
    distribution. The gradient is taken with respect to the trained parameters, which for a
    parametrized weight are its originals (for the effective weights, fold a copy of the model
    first). Biases are left out. The expectation over y is exact, not sampled. The model runs in
    evaluation mode, so that p(y|x) depends on x alone.

    Args:
        model: Model in float32 or float64 whose output holds logits (or log-probabilities) along
            the last axis, or the means of a Gaussian.
        batches: One (input, target) pair, or an iterable of pairs. Targets are only used to check
            the default likelihood, and may be None.
        layers: Names of modules or of their weights; None (default) for the last two that run.
        likelihood: "categorical" (softmax), or "gaussian" with variance 1. The default is
            "categorical", which needs two or more outputs and class indices or probabilities as
            targets.
        threshold: Share of the largest eigenvalue, below 1, up to which eigenvalues count as zero
            in the pseudo-condition number (default 1e-10).
        damping: Damping of the damped condition number, as a share of the mean eigenvalue
            (default 0.01).
        method: "exact" to compute the matrix; "lanczos" to estimate from products with it, which
            gives lower bounds of the condition numbers, of which the damped one depends on an
            estimate of the mean eigenvalue; "auto" (default) for "exact" up to 4096 weights and
            "lanczos" above.

    Returns:
        A :class:`FisherCondition`.

    Raises:
        ZeromeanError: A layer is unknown; no layer runs; an option has an unknown value; the
            default likelihood does not apply; the model is in half precision; its output is not a
            tensor; F is zero or not finite; or the model cannot be batched over samples.

    Example:
        >>> import torch, zeromean
        >>> model = torch.nn.Linear(2, 1, bias=False)  # a Gaussian's F is the mean of x x^T
        >>> x = torch.tensor([[2.0, 0.0], [0.0, 1.0]])
        >>> found = zeromean.diagnose.fisher_condition(model, (x, None), likelihood="gaussian")
        >>> found.eigenvalues[0], float(found.condition[0])
        (array([0.5, 2. ]), 4.0)

    Reference:
        Huang et al., Centered Weight Normalization, ICCV 2017, Fig. 2; the relative Fisher
        information is that of Sun and Nielsen, ICML 2017.
    """
    if likelihood is not None:
        check_option("likelihood", likelihood, ("categorical", "gaussian"))
    check_option("method", method, ("auto", "exact", "lanczos"))
    for name, value, limit in (("threshold", threshold, 1), ("damping", damping, np.inf)):
        if not 0 < value < limit:
            raise ZeromeanError(f"{name}={value} is not between 0 and {limit}", f"Leave {name} out")
    check_model(model, precise=True)
    own = copy.deepcopy(model).eval()
    found = {layer.name: layer for layer in layers_of(own)}
    for parameter in own.parameters():
        if parameter.is_floating_point():
            parameter.requires_grad_()
    given = pairs(batches, own)
    ran, output = _first_pass(own, [*found.values()], given[0])
    if likelihood is None:
        likelihood = "categorical"
        _check_output(output)
        check_classes(output, given[0][1], axis=-1, option="likelihood", example='"gaussian"')
    chosen = _chosen(layers, [*found], ran)
    spectra = [_spectrum(own, found[name], given, likelihood, method) for name in chosen]
    return _result(chosen, spectra, threshold, damping)


@dataclass(frozen=True)
class _Spectrum:
    """The spectrum of a layer's F."""

    size: int  # dimension of F
    smallest: float  # smallest eigenvalue, at least zero
    mean: float  # mean of the eigenvalues
    in_range: Array  # ascending eigenvalues; of an estimate, Ritz values outside the null space
    exact: bool  # whether ``in_range`` holds all eigenvalues
    rounding: float  # share of the largest one below which an eigenvalue may be rounding error

    def summary(self, name: str, threshold: float, damping: float) -> tuple[float, ...]:
        """Return the condition, pseudo-condition and damped condition numbers, rank and size."""
        largest = max(float(self.in_range[-1]), 0.0)
        if not largest:
            raise ZeromeanError(
                f"the Fisher information of {name} is zero on these batches",
                "Check whether the layer affects the output, and whether the softmax is saturated",
            )
        above = self.in_range[self.in_range > max(threshold, self.rounding) * largest]
        smallest = self.smallest if self.smallest > self.rounding * largest else 0.0
        shift = damping * self.mean
        return (
            largest / smallest if smallest else np.inf,
            largest / above[0],
            (largest + shift) / (smallest + shift),
            len(above) if self.exact else np.nan,
            self.size,
        )


def _result(
    names: list[str], spectra: list[_Spectrum], threshold: float, damping: float
) -> FisherCondition:
    rows = [one.summary(name, threshold, damping) for name, one in zip(names, spectra, strict=True)]
    condition, pseudo, damped, rank, size = np.array(rows, dtype=float).T
    return FisherCondition(
        layers=tuple(names),
        condition=condition,
        pseudo_condition=pseudo,
        damped_condition=damped,
        rank=rank,
        size=size,
        eigenvalues=tuple(spectrum.in_range for spectrum in spectra),
        methods=tuple("exact" if one.exact else "Lanczos estimate" for one in spectra),
        threshold=threshold,
        damping=damping,
    )


def _first_pass(model: nn.Module, found: list[Layer], pair: Pair) -> tuple[list[str], Any]:
    """Return the layers' names in the order of their last calls, and the output."""
    ran: dict[str, None] = {}

    def on_call(layer: Layer, _inputs: object, _output: object) -> None:
        ran.pop(layer.name, None)
        ran[layer.name] = None

    with unchanged(model), torch.no_grad(), forward_hooks(found, on_call):
        output = run(model, pair[0])
    return list(ran), output


def _chosen(layers: Sequence[str] | None, found: list[str], ran: list[str]) -> list[str]:
    """Return the names of the chosen weights: those asked for, or the last two that ran."""
    if layers is None:
        if not ran:
            raise ZeromeanError(
                "the model calls none of its layers with fan-in axes, so that the default of"
                " layers, the last two that run, is empty",
                f"Pass layers= with names from {', '.join(found)}",
            )
        return ran[-2:]
    given = (layers,) if isinstance(layers, str) else tuple(layers)
    names = []
    for name in given:
        fitting = [one for one in found if name in (one, one.rpartition(".")[0])]
        if not fitting:
            raise ZeromeanError(
                f'"{name}" is not one of the layers with fan-in axes: {", ".join(found)}',
                "Pass names from this list",
            )
        names += fitting
    if not names:
        raise ZeromeanError("layers is empty", "Leave layers out for the last two that run")
    return names


def _spectrum(
    model: nn.Module, layer: Layer, batches: list[Pair], likelihood: Likelihood, method: str
) -> _Spectrum:
    trained = _trained(layer)
    size = sum(parameter.numel() for parameter in trained.values())
    if method == "exact" or (method == "auto" and size <= MAX_EXACT_SIZE):
        return _exact(model, trained, batches, likelihood)
    return _estimate(model, list(trained.values()), batches, likelihood)


def _trained(layer: Layer) -> dict[str, Tensor]:
    """Return the trained parameters by full name: the weight, or its originals."""
    home = layer.name.removesuffix(layer.tensor)
    if not parametrize.is_parametrized(layer.module, layer.tensor):
        return {layer.name: getattr(layer.module, layer.tensor)}
    parametrized: Any = layer.module.parametrizations
    named = parametrized[layer.tensor].named_parameters()
    return {f"{home}parametrizations.{layer.tensor}.{name}": value for name, value in named}


# --- Exact ----------------------------------------------------------------------------------------


def _exact(
    model: nn.Module, trained: dict[str, Tensor], batches: list[Pair], likelihood: Likelihood
) -> _Spectrum:
    """Compute F from the Jacobian of each sample's outputs."""
    weights = {name: parameter.detach() for name, parameter in trained.items()}
    size = sum(weight.numel() for weight in weights.values())
    fisher = np.zeros((size, size))
    samples = sum(count(inputs) for inputs, _ in batches)

    def output(values: dict[str, Tensor], sample: Any, shared: Any) -> tuple[Tensor, Tensor]:
        if isinstance(sample, dict):
            one: Any = {name: value[None] for name, value in sample.items()} | shared
        else:
            one = sample[None]
        z = run(lambda *a, **k: functional_call(model, values, a, k), one)
        _check_output(z)
        z = z.reshape(-1, z.shape[-1])
        return z, z

    jacobian_of_each = vmap(jacrev(output, has_aux=True), in_dims=(None, 0, None))
    for part, shared in _parts(model, batches, size):
        try:
            with differentiable(model):
                jacobians, z = jacobian_of_each(weights, part, shared)
        except (RuntimeError, ValueError) as error:
            raise ZeromeanError(
                f"torch.func cannot batch this model ({error})", 'Pass method="lanczos"'
            ) from error
        jacobian = torch.cat([jacobians[name].flatten(3) for name in weights], 3).detach()
        rows = _rows(jacobian, z.detach(), likelihood)
        fisher += rows.T @ rows / samples
    _check_finite(fisher)
    values = np.asarray(np.linalg.eigvalsh(fisher), dtype=np.float64)
    return _Spectrum(
        size=size,
        smallest=max(values[0], 0.0),
        mean=float(np.trace(fisher)) / size,
        in_range=values,
        exact=True,
        rounding=size * float(np.finfo(float).eps),
    )


def _rows(jacobian: Tensor, z: Tensor, likelihood: Likelihood) -> Array:
    """Return rows whose outer products sum to E_y of the gradient's outer product.

    The Jacobian has the shape (samples, positions, outputs, weights), z that without weights.
    """
    rows = jacobian.double()
    if likelihood == "categorical":
        # grad log p(y) = J_y - sum_k p_k J_k, weighted by p_y.
        p = z.double().softmax(-1)[..., None]
        rows = p.sqrt() * (rows - (p * rows).sum(2, keepdim=True))
    return rows.flatten(0, 2).cpu().numpy()


# --- Lanczos --------------------------------------------------------------------------------------


def _estimate(
    model: nn.Module, trained: list[Tensor], batches: list[Pair], likelihood: Likelihood
) -> _Spectrum:
    """Estimate the spectrum from products with F."""
    size = sum(parameter.numel() for parameter in trained)
    product = _product(model, trained, batches, likelihood)
    random = np.random.default_rng(0)
    seen = product(random.standard_normal(size))  # F r is orthogonal to the null space of F
    _check_finite(seen)
    if not seen.any():
        return _Spectrum(size, 0.0, 0.0, np.zeros(1), exact=False, rounding=0.0)
    probes = random.choice([-1.0, 1.0], (TRACE_PROBES, size))
    mean = float(np.mean([probe @ product(probe) for probe in probes])) / size  # Hutchinson
    smallest = 0.0
    if _rank_at_most(model, batches, likelihood) >= size:
        start = random.standard_normal(size)
        smallest = max(float(ritz_values(product, start, LANCZOS_STEPS)[0]), 0.0)
    return _Spectrum(
        size=size,
        smallest=smallest,
        mean=mean,
        in_range=ritz_values(product, seen, LANCZOS_STEPS),
        exact=False,
        # The products are in the parameters' precision.
        rounding=max(32 * torch.finfo(parameter.dtype).eps for parameter in trained),
    )


def _rank_at_most(model: nn.Module, batches: list[Pair], likelihood: Likelihood) -> int:
    """Return an upper bound on the rank of F: one per output, one less for a softmax."""
    rank = 0
    for inputs, _ in batches:
        z = _outputs(model, inputs)
        outputs = z.shape[-1]
        rank += z.numel() // outputs * (outputs - (likelihood == "categorical"))
    return rank


def _product(
    model: nn.Module, trained: list[Tensor], batches: list[Pair], likelihood: Likelihood
) -> Product:
    """Return the product F v = E_x J^T S J v, with S the covariance of d log p / d outputs."""
    samples = sum(count(inputs) for inputs, _ in batches)

    def graph(inputs: Any) -> tuple[Tensor, Tensor, Sequence[Tensor]]:
        """Return the outputs z, a dummy u, and J^T u, whose derivative by u along v is J v."""
        with differentiable(model):
            z = run(model, inputs)
            _check_output(z)
            u = torch.zeros_like(z, requires_grad=True)
            back = torch.autograd.grad(
                z, trained, grad_outputs=u, create_graph=True, materialize_grads=True
            )
        return z, u, back

    # The graph of a single batch is kept.
    kept = graph(batches[0][0]) if len(batches) == 1 else None

    def product(vector: Array) -> Array:
        along = [x.to(p) for x, p in zip(split_like(vector, trained), trained, strict=True)]
        total = np.zeros_like(vector)
        for inputs, _ in batches:
            z, u, back = kept or graph(inputs)
            (forward,) = torch.autograd.grad(
                back, u, grad_outputs=along, retain_graph=True, materialize_grads=True
            )
            if likelihood == "categorical":
                p = z.detach().softmax(-1)
                forward = p * (forward - (p * forward).sum(-1, keepdim=True))
            found = torch.autograd.grad(
                z, trained, grad_outputs=forward, retain_graph=True, materialize_grads=True
            )
            total += flat(found)
        return total / samples

    return product


def _parts(
    model: nn.Module, batches: list[Pair], weights: int
) -> Iterator[tuple[Any, dict[str, Tensor]]]:
    """Split the inputs into parts whose Jacobians fit into memory.

    Yields:
        The inputs of some samples, and those by name that are single numbers, which all share.
    """
    for inputs, _ in batches:
        z = _outputs(model, inputs)
        step = max(1, MAX_JACOBIAN_ENTRIES * count(inputs) // (weights * z.numel()))
        for start in range(0, count(inputs), step):
            here = slice(start, start + step)
            if isinstance(inputs, Mapping):
                by_sample = {name: value[here] for name, value in inputs.items() if value.ndim}
                yield by_sample, {name: x for name, x in inputs.items() if not x.ndim}
            else:
                yield inputs[here], {}


def _outputs(model: nn.Module, inputs: Any) -> Tensor:
    with unchanged(model), torch.no_grad():
        z = run(model, inputs)
    _check_output(z)
    return cast(Tensor, z)


def _check_finite(values: Array) -> None:
    if not np.isfinite(values).all():
        raise ZeromeanError(
            "the Fisher information has entries that are not finite",
            "Check the weights and these inputs",
        )


def _check_output(z: object) -> None:
    if not isinstance(z, Tensor) or z.ndim < 2:
        found = f"of shape {tuple(z.shape)}" if isinstance(z, Tensor) else type(z).__name__
        raise ZeromeanError(
            f"the model's output is {found}, not a tensor of shape (samples, ..., outputs)",
            "Wrap the model so that it returns its logits",
        )
