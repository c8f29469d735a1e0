"""The Fisher information of one layer's weights, and how well it is conditioned."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.func import functional_call, jacrev, vmap
from torch.nn.utils import parametrize

from zeromean.diagnose.batches import Batches, Pair, count, pairs, run
from zeromean.diagnose.lanczos import Product, flat, ritz_values, split_like
from zeromean.diagnose.layers import (
    Layer,
    differentiable,
    layers_of,
    listening,
    plain_copy,
    refuse_half_precision,
    unchanged,
)
from zeromean.diagnose.result import GRAY, GREEN, ORANGE, Diagnostic, number
from zeromean.errors import ZeromeanError
from zeromean.plan import check_option

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Array = npt.NDArray[np.float64]
Likelihood = Literal["categorical", "gaussian"]

# Weights of a layer up to which the matrix is made: 4096 take 134 MB and some seconds.
EXACT = 4096
# Dimension of the Krylov spaces of an estimate, and probes of its trace.
STEPS, PROBES = 64, 16
# Entries of Jacobians held at a time.
_CHUNK = 2**24


@dataclass(frozen=True, eq=False)
class FisherCondition(Diagnostic):
    r"""Condition numbers of the Fisher information of some layers' weights.

    Args:
        layers: Name of each weight tensor.
        condition: :math:`|\lambda|_{max} / |\lambda|_{min}`; inf where the smallest is zero to
            rounding, as a softmax output makes it. Shape (layers,), as the next four.
        pseudo_condition: The same over the eigenvalues above ``threshold`` times the largest.
        damped_condition: :math:`(\lambda_{max} + \delta) / (\lambda_{min} + \delta)` with
            :math:`\delta` = ``damping`` times the mean eigenvalue.
        rank: How many eigenvalues are above the threshold; nan where they are estimated.
        size: How many weights the layer trains: the dimension of F.
        eigenvalues: For each layer, ascending: all of them where exact, Ritz values where not.
        methods: Of each layer, "exact" or "Lanczos estimate".
        threshold: Relative to the largest eigenvalue.
        damping: Relative to the mean eigenvalue.
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
        "Eigenvalues from the largest to the smallest; the dashed lines are the thresholds."
        " Of an estimate, its Ritz values."
    )
    source: ClassVar[str] = "Huang et al. 2017, Fig. 2 c"

    @property
    def answer(self) -> str:
        parts = [
            f"{number(value)} for {name}"
            + (" (Lanczos estimate, from below)" if method != "exact" else "")
            for name, value, method in zip(
                self.layers, self.pseudo_condition, self.methods, strict=True
            )
        ]
        return (
            f"Pseudo-condition number over eigenvalues above {self.threshold:g} of the largest:"
            f" {', '.join(parts)}. Damped by {self.damping:g} of the mean eigenvalue:"
            f" {', '.join(map(number, self.damped_condition))}. Perfect would be 1."
        )

    def table(self) -> list[tuple[str, ...]]:
        rows: list[tuple[str, ...]] = [
            ("layer", "weights", "rank", "condition", "pseudo", "damped", "largest", "method"),
        ]
        for index, name in enumerate(self.layers):
            rank = self.rank[index]
            rows.append(
                (
                    name,
                    f"{self.size[index]:.0f}",
                    "-" if np.isnan(rank) else f"{rank:.0f}",
                    number(self.condition[index]),
                    number(self.pseudo_condition[index]),
                    number(self.damped_condition[index]),
                    number(float(self.eigenvalues[index][-1])),
                    self.methods[index],
                )
            )
        return rows

    def _draw(self, axes: Sequence[Axes], label: str | None, color: str) -> None:
        (one,) = axes
        colors = (color, ORANGE, GREEN, GRAY)
        for index, (name, values) in enumerate(zip(self.layers, self.eigenvalues, strict=True)):
            kept = np.sort(values)[::-1]
            kept = kept[kept > 0.01 * self.threshold * kept[0]]
            places = np.arange(1, len(kept) + 1)
            exact = self.methods[index] == "exact"
            told = name if exact else f"{name} (estimate)"
            told = told if label is None else f"{label}, {told}"
            style = colors[index % len(colors)]
            one.plot(places, kept, "-" if exact else ".", color=style, linewidth=1.5, label=told)
            if len(kept):
                one.axhline(self.threshold * kept[0], color=style, linewidth=0.8, linestyle="--")
        one.set_yscale("log")
        one.set_xlabel("eigenvalue, from the largest")
        one.set_ylabel("size")
        one.legend(frameon=False)


def fisher_condition(
    model: nn.Module,
    batches: Batches,
    layers: Sequence[str] | None = None,
    *,
    likelihood: Likelihood = "categorical",
    threshold: float = 1e-10,
    damping: float = 1e-2,
    method: Literal["auto", "exact", "lanczos"] = "auto",
) -> FisherCondition:
    r"""How well the Fisher information of a layer's weights is conditioned.

    .. math:: F = E_x E_{y \sim p(y|x)} [\nabla \log p(y|x) \, \nabla \log p(y|x)^T]

    over the weights of one layer, its input fixed by the layers below; the labels are the model's
    own, so targets are not used. The gradient is by the parameters that are trained: of a
    parametrized weight by its originals (to have it by the effective weights, remove the
    parametrizations from a copy). Biases are left out. The expectation over y is taken in full,
    never sampled. The model runs in evaluation mode, so that p(y|x) depends on x alone.

    Args:
        model: The model, in float32 or float64; its output holds logits (or log-probabilities)
            along the last axis, or means of a Gaussian.
        batches: One (input, target) pair, or an iterable of them.
        layers: Names of modules or of their weights; None (default) takes the last two that run.
        likelihood: "categorical" (softmax, default), or "gaussian" with variance 1.
        threshold: Of the pseudo-condition number: eigenvalues below so much of the largest count
            as zero (default 1e-10).
        damping: Of the damped one, as a share of the mean eigenvalue (default 0.01).
        method: "exact" makes the matrix; "lanczos" estimates from products with it: its condition
            numbers are lower bounds, the damped one up to the estimate of the mean eigenvalue;
            "auto" (default) is exact up to 4096 weights.

    Returns:
        A :class:`FisherCondition`.

    Raises:
        ZeromeanError: A layer is unknown, an option has an unknown value, the model is in half
            precision, its output is no tensor, or its layers cannot be batched over samples.

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
    check_option("likelihood", likelihood, ("categorical", "gaussian"))
    check_option("method", method, ("auto", "exact", "lanczos"))
    for name, value in (("threshold", threshold), ("damping", damping)):
        if not 0 < value < np.inf:
            raise ZeromeanError(f"{name}={value}", "a positive number", f"leave {name} out")
    found = layers_of(model)
    refuse_half_precision(model)
    own = copy.deepcopy(model).eval().requires_grad_()
    given = pairs(batches, model)
    chosen = _chosen(layers, found, _in_order(model, found, given[0]))
    own_layers = {layer.name: layer for layer in layers_of(own)}
    spectra = [_spectrum(own, own_layers[name], given, likelihood, method) for name in chosen]
    return _result(chosen, spectra, threshold, damping)


@dataclass(frozen=True)
class _Spectrum:
    """What is known of a layer's F.

    Args:
        size: Its dimension.
        smallest: Its smallest eigenvalue, at least zero.
        mean: The mean of its eigenvalues.
        in_range: Ascending eigenvalues; of an estimate, Ritz values that see no null space.
        exact: Whether they are all there.
        rounding: Below so much of the largest, an eigenvalue may be nothing but rounding.
    """

    size: int
    smallest: float
    mean: float
    in_range: Array
    exact: bool
    rounding: float


def _result(
    names: list[str], spectra: list[_Spectrum], threshold: float, damping: float
) -> FisherCondition:
    condition, pseudo, damped, rank = [], [], [], []
    for spectrum in spectra:
        values = spectrum.in_range
        largest = max(float(values[-1]), 0.0)
        above = values[values > max(threshold, spectrum.rounding) * largest]
        zero = spectrum.rounding * largest
        smallest = spectrum.smallest if spectrum.smallest > zero else 0.0
        shift = damping * spectrum.mean
        condition.append(largest / smallest if smallest else np.inf)
        pseudo.append(largest / above[0] if len(above) else np.nan)
        damped.append((largest + shift) / (smallest + shift) if shift > 0 else np.nan)
        rank.append(len(above) if spectrum.exact else np.nan)
    return FisherCondition(
        layers=tuple(names),
        condition=np.array(condition, dtype=float),
        pseudo_condition=np.array(pseudo, dtype=float),
        damped_condition=np.array(damped, dtype=float),
        rank=np.array(rank, dtype=float),
        size=np.array([spectrum.size for spectrum in spectra], dtype=float),
        eigenvalues=tuple(spectrum.in_range for spectrum in spectra),
        methods=tuple("exact" if one.exact else "Lanczos estimate" for one in spectra),
        threshold=threshold,
        damping=damping,
    )


def _in_order(model: nn.Module, found: list[Layer], pair: Pair) -> list[str]:
    """The layers' names in the order in which they ran last."""
    ran: dict[str, None] = {}

    def heard(layer: Layer, _inputs: object, _output: object) -> None:
        ran.pop(layer.name, None)
        ran[layer.name] = None

    with unchanged(model), torch.no_grad(), listening(found, heard):
        run(model, pair[0])
    return list(ran)


def _chosen(layers: Sequence[str] | None, found: list[Layer], ran: list[str]) -> list[str]:
    if layers is None:
        return ran[-2:]
    given = (layers,) if isinstance(layers, str) else tuple(layers)
    names = []
    for name in given:
        fitting = [one.name for one in found if name in (one.name, one.name.rpartition(".")[0])]
        if not fitting:
            raise ZeromeanError(
                f"layer {name!r}",
                ", ".join(layer.name for layer in found),
                "name layers with fan-in axes, as zeromean.explain(model) lists them",
            )
        names += fitting
    if not names:
        raise ZeromeanError("no layer", "one name or more", "leave layers out for the last two")
    return names


def _spectrum(
    model: nn.Module, layer: Layer, batches: list[Pair], likelihood: Likelihood, method: str
) -> _Spectrum:
    trained = _trained(layer)
    size = sum(parameter.numel() for parameter in trained)
    if method == "exact" or (method == "auto" and max(size, layer.weight.numel()) <= EXACT):
        return _exact(model, layer, batches, likelihood)
    return _estimate(model, trained, batches, likelihood)


def _trained(layer: Layer) -> list[Tensor]:
    """What is trained of the layer's weight: itself, or what its parametrization makes it from."""
    if parametrize.is_parametrized(layer.module, layer.tensor):
        parametrized: Any = layer.module.parametrizations
        return list(parametrized[layer.tensor].parameters())
    return [getattr(layer.module, layer.tensor)]


# --- Exact ----------------------------------------------------------------------------------------


def _exact(
    model: nn.Module,
    layer: Layer,
    batches: list[Pair],
    likelihood: Likelihood,
) -> _Spectrum:
    """From the Jacobian of every sample, by the effective weights, then pulled back."""
    plain = plain_copy(model).requires_grad_(requires_grad=False)
    weight = layer.weight
    fisher = np.zeros((weight.numel(), weight.numel()))
    samples = sum(count(inputs) for inputs, _ in batches)

    def output(w: Tensor, sample: Any) -> tuple[Tensor, Tensor]:
        one = {k: v[None] for k, v in sample.items()} if isinstance(sample, dict) else sample[None]
        z = run(lambda *a, **k: functional_call(plain, {layer.name: w}, a, k), one)
        _refuse_output(z)
        z = z.reshape(-1, z.shape[-1])
        return z, z

    jacobian_of_each = vmap(jacrev(output, has_aux=True), in_dims=(None, 0))
    for part in _parts(model, batches, weight.numel()):
        with _batchable(), differentiable():
            jacobian, z = jacobian_of_each(weight, part)
        rows = _rows(jacobian, z, likelihood)
        fisher += rows.T @ rows / samples
    _refuse_undefined(fisher)
    jacobian_of = _pull_back(layer)
    if jacobian_of is not None:
        fisher = jacobian_of.T @ fisher @ jacobian_of
    values = np.asarray(np.linalg.eigvalsh(fisher), dtype=np.float64)
    size = len(values)
    return _Spectrum(
        size=size,
        smallest=max(values[0], 0.0),
        mean=float(np.trace(fisher)) / size,
        in_range=values,
        exact=True,
        rounding=size * float(np.finfo(float).eps),
    )


def _rows(jacobian: Tensor, z: Tensor, likelihood: Likelihood) -> Array:
    """Rows whose outer products add up to the samples' E_y of the gradient's outer product.

    Args:
        jacobian: Of the outputs by the weights, shape (samples, positions, outputs, *weight).
        z: The outputs, shape (samples, positions, outputs).
        likelihood: Of the outputs.
    """
    rows = jacobian.flatten(3).double()
    if likelihood == "categorical":
        # grad log p(y) = J_y - sum_k p_k J_k, and weighted by p_y.
        p = z.double().softmax(-1)[..., None]
        rows = p.sqrt() * (rows - (p * rows).sum(2, keepdim=True))
    return rows.flatten(0, 2).cpu().numpy()


def _pull_back(layer: Layer) -> Array | None:
    """The Jacobian of the effective weights by the trained ones; None where they are the same."""
    if not parametrize.is_parametrized(layer.module, layer.tensor):
        return None
    parametrized: Any = layer.module.parametrizations
    named = parametrized[layer.tensor].named_parameters()
    originals = {name: parameter.detach() for name, parameter in named}
    with _batchable():
        jacobians = jacrev(
            lambda values: functional_call(parametrized[layer.tensor], values, ()).flatten()
        )(originals)
    return torch.cat([jacobians[name].flatten(1) for name in originals], 1).double().cpu().numpy()


@contextmanager
def _batchable() -> Iterator[None]:
    """Says what to do where torch.func cannot differentiate many outputs at once."""
    try:
        yield
    except RuntimeError as error:
        raise ZeromeanError(
            f"a model that torch.func cannot batch ({error})",
            "a forward pass without control flow that depends on data",
            'pass method="lanczos", which needs products alone',
        ) from error


# --- Lanczos --------------------------------------------------------------------------------------


def _estimate(
    model: nn.Module, trained: list[Tensor], batches: list[Pair], likelihood: Likelihood
) -> _Spectrum:
    """From products with F alone."""
    size = sum(parameter.numel() for parameter in trained)
    product = _product(model, trained, batches, likelihood)
    random = np.random.default_rng(0)
    seen = product(random.standard_normal(size))  # F r has no part in the null space of F
    _refuse_undefined(seen)
    if not seen.any():
        return _Spectrum(size, 0.0, 0.0, np.zeros(1), exact=False, rounding=0.0)
    probes = random.choice([-1.0, 1.0], (PROBES, size))
    mean = float(np.mean([probe @ product(probe) for probe in probes])) / size  # Hutchinson
    singular = _rank_at_most(model, batches, likelihood) < size
    smallest = (
        0.0 if singular else float(ritz_values(product, random.standard_normal(size), STEPS)[0])
    )
    return _Spectrum(
        size=size,
        smallest=max(smallest, 0.0),
        mean=mean,
        in_range=ritz_values(product, seen, STEPS),
        exact=False,
        # The products are in the parameters' own precision.
        rounding=max(32 * torch.finfo(parameter.dtype).eps for parameter in trained),
    )


def _rank_at_most(model: nn.Module, batches: list[Pair], likelihood: Likelihood) -> int:
    """The rank of F, at most: an output each, and a softmax has one less to choose."""
    rank = 0
    for inputs, _ in batches:
        with unchanged(model), torch.no_grad():
            z = run(model, inputs)
        _refuse_output(z)
        outputs = z.shape[-1]
        rank += z.numel() // outputs * (outputs - (likelihood == "categorical"))
    return rank


def _product(
    model: nn.Module, trained: list[Tensor], batches: list[Pair], likelihood: Likelihood
) -> Product:
    """F v = E_x J^T S J v, S the covariance of the gradient of log p by the outputs."""
    samples = sum(count(inputs) for inputs, _ in batches)
    graphs: dict[int, tuple[Tensor, Tensor, Sequence[Tensor]]] = {}

    def graph(index: int) -> tuple[Tensor, Tensor, Sequence[Tensor]]:
        """The outputs z, a dummy u, and J^T u: whose gradient by u, along v, is J v."""
        if index in graphs:
            return graphs[index]
        with ExitStack() as stack:
            stack.enter_context(unchanged(model))
            stack.enter_context(torch.enable_grad())
            stack.enter_context(differentiable())
            z = run(model, batches[index][0])
            _refuse_output(z)
            u = torch.zeros_like(z, requires_grad=True)
            back = torch.autograd.grad(
                z, trained, grad_outputs=u, create_graph=True, materialize_grads=True
            )
        if len(batches) == 1:
            graphs[index] = z, u, back
        return z, u, back

    def product(vector: Array) -> Array:
        along = [x.to(p) for x, p in zip(split_like(vector, trained), trained, strict=True)]
        total = np.zeros_like(vector)
        for index in range(len(batches)):
            z, u, back = graph(index)
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


def _parts(model: nn.Module, batches: list[Pair], weights: int) -> Iterator[Any]:
    """The inputs in parts whose Jacobians fit into memory."""
    for inputs, _ in batches:
        with unchanged(model), torch.no_grad():
            z = run(model, inputs)
        _refuse_output(z)
        step = max(1, _CHUNK * count(inputs) // (weights * z.numel()))
        for start in range(0, count(inputs), step):
            here = slice(start, start + step)
            if isinstance(inputs, Mapping):
                yield {name: value[here] for name, value in inputs.items()}
            else:
                yield inputs[here]


def _refuse_undefined(values: Array) -> None:
    if not np.isfinite(values).all():
        raise ZeromeanError(
            "a Fisher information with infinite or undefined entries",
            "outputs and gradients that are finite",
            "check the weights and these inputs",
        )


def _refuse_output(z: object) -> None:
    if not isinstance(z, Tensor) or z.ndim < 2:
        got = f"shape {tuple(z.shape)}" if isinstance(z, Tensor) else type(z).__name__
        raise ZeromeanError(
            f"a model output of {got}",
            "a tensor of shape (samples, ..., outputs)",
            "wrap the model so that it returns its logits",
        )
