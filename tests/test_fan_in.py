"""Compare the fan-in axes of every layer with what the layer computes."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import nn
from torch.nn.utils import prune

import zeromean
from brute_force import center_vectors, layer_vectors
from zeromean import FanIn
from zeromean.fan_in import _rules, register

# layer, input shapes, the axis of the output units
LAYERS = {
    "Linear": (nn.Linear(5, 3), [(2, 5)], 1),
    "Bilinear": (nn.Bilinear(4, 3, 5), [(2, 4), (2, 3)], 1),
    "Conv1d": (nn.Conv1d(4, 6, 3), [(1, 4, 9)], 1),
    "Conv1d, groups": (nn.Conv1d(4, 6, 3, groups=2), [(1, 4, 9)], 1),
    "Conv2d": (nn.Conv2d(3, 4, (3, 2), stride=2), [(1, 3, 9, 9)], 1),
    "Conv2d, 1x1": (nn.Conv2d(6, 4, 1), [(1, 6, 3, 3)], 1),
    "Conv2d, depthwise": (nn.Conv2d(4, 8, 3, groups=4), [(1, 4, 5, 5)], 1),
    "Conv3d": (nn.Conv3d(2, 3, 2), [(1, 2, 4, 4, 4)], 1),
    "ConvTranspose1d": (nn.ConvTranspose1d(4, 6, 3), [(1, 4, 9)], 1),
    "ConvTranspose2d": (nn.ConvTranspose2d(4, 6, 3, stride=2), [(1, 4, 5, 5)], 1),
    "ConvTranspose2d, groups": (nn.ConvTranspose2d(8, 6, 3, groups=2), [(1, 8, 5, 5)], 1),
    "ConvTranspose2d, depthwise": (nn.ConvTranspose2d(4, 4, 3, groups=4), [(1, 4, 5, 5)], 1),
    "ConvTranspose3d": (nn.ConvTranspose3d(4, 2, 2, groups=2), [(1, 4, 3, 3, 3)], 1),
}


@pytest.mark.parametrize("name", LAYERS)
def test_weight_vectors_feed_output_units(name: str) -> None:
    layer, shapes, unit_axis = LAYERS[name]
    vectors = layer_vectors(
        layer, lambda: tuple(torch.rand(s, dtype=torch.float64) + 0.1 for s in shapes), unit_axis
    )
    (row,) = (row for row in zeromean.explain(layer) if row.name == "weight")
    assert row.centered
    assert row.role == ("conv" if "Conv" in name else "linear")
    assert row.fan_in is not None
    assert row.fan_in.size(row.shape) == vectors[0].sum()
    gradient = torch.randn(layer.weight.shape, dtype=torch.float64)
    torch.testing.assert_close(
        zeromean.center(gradient, row.axes, row.groups), center_vectors(gradient, vectors)
    )


@pytest.mark.parametrize("kind", [nn.Embedding, nn.EmbeddingBag])
def test_embedding_is_centered_over_tokens_without_padding(kind: type[nn.Module]) -> None:
    (row,) = zeromean.explain(kind(7, 3, padding_idx=2), embeddings=True)
    assert (row.axes, row.role, row.centered) == ((0,), "embedding", True)
    assert row.fan_in is not None
    assert row.fan_in.padding_idx == 2
    assert row.fan_in.size(row.shape) == 6


RECURRENT = {
    "RNN": nn.RNN(3, 4, bidirectional=True),
    "LSTM, projected": nn.LSTM(3, 4, num_layers=2, proj_size=2),
    "GRU": nn.GRU(3, 4),
    "RNNCell": nn.RNNCell(3, 4),
    "LSTMCell": nn.LSTMCell(3, 4),
    "GRUCell": nn.GRUCell(3, 4),
}


@pytest.mark.parametrize("name", RECURRENT)
def test_recurrent_matrices_are_centered_separately(name: str) -> None:
    for row in zeromean.explain(RECURRENT[name]):
        is_matrix = row.name.startswith("weight")
        assert row.centered == is_matrix
        assert row.axes == ((1,) if is_matrix else ())


@pytest.mark.parametrize("other_sizes", [{}, {"kdim": 3, "vdim": 5, "add_bias_kv": True}])
def test_attention_matrices_are_centered(other_sizes: dict[str, int]) -> None:
    for row in zeromean.explain(nn.MultiheadAttention(4, 2, **other_sizes)):
        assert row.centered == ("weight" in row.name)
        assert row.axes == ((1,) if "weight" in row.name else ())


@pytest.mark.parametrize(
    "layer",
    [
        nn.BatchNorm2d(4),
        nn.LayerNorm((3, 4)),
        nn.GroupNorm(2, 4),
        nn.RMSNorm((2, 4)),
        nn.InstanceNorm1d(4, affine=True),
        nn.PReLU(4),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_gains_biases_and_slopes_have_no_fan_in(layer: nn.Module) -> None:
    for row in zeromean.explain(layer):
        assert not row.centered
        assert row.axes == ()
        assert row.reason


@pytest.mark.parametrize(
    "layer", [nn.Linear(1, 4), nn.Conv2d(4, 4, 1, groups=4), nn.Embedding(2, 3, padding_idx=0)]
)
def test_fan_in_1_is_left_alone(layer: nn.Module) -> None:
    row = next(iter(zeromean.explain(layer, embeddings=True)))
    assert not row.centered
    assert "fan-in 1" in row.reason


# --- register -------------------------------------------------------------------------------------


class Experts(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.randn(8, 16, 32))
        self.scale = nn.Parameter(torch.ones(8))


class FineExperts(Experts):
    pass


@pytest.fixture
def rules() -> Iterator[None]:
    """Restore the table of rules after the test."""
    saved = dict(_rules)
    yield
    _rules.clear()
    _rules.update(saved)


@pytest.mark.usefixtures("rules")
def test_register_describes_a_class_and_its_subclasses() -> None:
    assert not zeromean.explain(FineExperts()).centered
    assert "no rule describes FineExperts" in zeromean.explain(FineExperts())[0].reason

    @register(Experts)
    def experts(module: Experts) -> dict[str, FanIn | None]:
        return {"w": FanIn(axes=(1,)), "scale": None}

    w, scale = zeromean.explain(FineExperts())
    assert w.centered
    assert w.axes == (1,)
    assert not scale.centered


@pytest.mark.usefixtures("rules")
def test_register_by_name_replaces_an_earlier_rule() -> None:
    register(f"{__name__}.Experts")(lambda module: {"w": FanIn((2,)), "scale": "a scale"})
    assert zeromean.explain(Experts())[0].axes == (2,)
    assert zeromean.explain(Experts())[1].reason == "a scale"
    register(f"{__name__}.Experts")(lambda module: {"w": FanIn((1, 2))})
    assert zeromean.explain(Experts())[0].axes == (1, 2)
    register(Experts)(lambda module: {"w": FanIn((1,))})
    assert zeromean.explain(Experts())[0].axes == (1,)
    register(f"{__name__}.Experts")(lambda module: {"w": FanIn((2,))})
    assert zeromean.explain(Experts())[0].axes == (2,)


@pytest.mark.usefixtures("rules")
def test_register_by_a_name_that_a_package_exports() -> None:
    register("torch.nn.Linear")(lambda module: {"weight": "not me"})
    assert zeromean.explain(nn.Linear(3, 2))[0].reason == "not me"


@pytest.mark.usefixtures("rules")
def test_rule_for_a_missing_parameter_raises() -> None:
    register(Experts)(lambda module: {"weight": FanIn((1,))})
    with pytest.raises(zeromean.ZeromeanError, match=r"Experts names 'weight'.*does not have"):
        zeromean.explain(Experts())


@pytest.mark.usefixtures("rules")
@pytest.mark.parametrize("entry", [(1,), [1], 1, True, FanIn], ids=str)
def test_rule_with_an_invalid_entry_raises(entry: object) -> None:
    register(Experts)(lambda module: {"w": entry})
    with pytest.raises(zeromean.ZeromeanError, match=r"Experts returned .* for 'w'.*not a FanIn"):
        zeromean.explain(Experts())


@pytest.mark.usefixtures("rules")
@pytest.mark.parametrize(
    ("entry", "words"),
    [
        (FanIn((0, 1), groups=3), "has axes (0, 1) in 3 groups, which"),
        (FanIn((0,), padding_idx=8), "axes (0,) with padding_idx=8, which do not fit this shape"),
        (FanIn((3,)), "Experts has axes (3,), which"),
    ],
)
def test_axes_that_do_not_fit_the_shape_are_named(entry: FanIn, words: str) -> None:
    register(Experts)(lambda module: {"w": entry})
    row = zeromean.explain(Experts())[0]
    assert not row.centered
    assert words in row.reason


@pytest.mark.usefixtures("rules")
@pytest.mark.parametrize("description", [None, ["w"], FanIn((1,))], ids=str)
def test_rule_that_returns_no_mapping_raises(description: object) -> None:
    register(Experts)(lambda module: description)  # type: ignore[arg-type, return-value]
    with pytest.raises(zeromean.ZeromeanError, match=r"not a mapping \{parameter name: FanIn"):
        zeromean.explain(Experts())


class Transposing(nn.Module):
    """Multiply by the transposed weight of a plain Linear."""

    def __init__(self) -> None:
        super().__init__()
        self.proj = nn.Linear(6, 4)
        self.other = nn.Linear(4, 6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.other(x @ self.proj.weight)


@pytest.mark.usefixtures("rules")
def test_parent_rule_replaces_that_of_a_submodule() -> None:
    register(Transposing)(lambda module: {"proj.weight": FanIn((0,)), "other.weight": "not me"})
    for model in (Transposing(), nn.Sequential(Transposing())):
        rows = {row.name.removeprefix("0."): row for row in zeromean.explain(model)}
        assert rows["proj.weight"].axes == (0,)
        assert rows["other.weight"].reason == "not me"
        assert rows["proj.bias"].reason == "a bias has no fan-in"
    shared = Transposing()
    assert zeromean.explain(nn.ModuleList([shared.proj, shared]))[0].axes == (0,)
    report = zeromean.reparametrize(shared, "wn")  # it follows the same rule
    assert [change.row.name for change in report if change.done] == ["proj.weight"]
    assert shared.proj.parametrizations.weight[0].fan_in.axes == (0,)


@pytest.mark.usefixtures("rules")
def test_parent_rule_for_a_missing_weight_raises() -> None:
    register(Transposing)(lambda module: {"projection.weight": FanIn((0,))})
    with pytest.raises(zeromean.ZeromeanError, match=r"'projection\.weight'.*does not have"):
        zeromean.explain(Transposing())


class Scaled(nn.Linear):
    """A Linear with an additional gain per input."""

    def __init__(self) -> None:
        super().__init__(4, 3)
        self.weight_scale = nn.Parameter(torch.ones(1, 4))


class Equalized(nn.Conv2d):
    """The weight is a property of another parameter."""

    def __init__(self) -> None:
        super().__init__(3, 4, 3)
        raw = self.weight
        del self.weight
        self.weight_raw = nn.Parameter(raw.detach())

    weight = property(lambda self: self.weight_raw * 0.5)


def test_subclass_with_other_parameters() -> None:
    assert [row.name for row in zeromean.explain(Scaled()).centered] == ["weight"]
    assert not zeromean.explain(Equalized()).centered


@pytest.mark.parametrize(
    ("layer", "name"),
    [
        (nn.Conv2d(3, 4, 3), "weight"),
        (nn.GRU(3, 4), "weight_hh_l0"),
        (nn.MultiheadAttention(4, 2), "in_proj_weight"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_pruned_weights_are_centered_as_before(layer: nn.Module, name: str) -> None:
    axes = {row.name: row.axes for row in zeromean.explain(layer)}
    prune.l1_unstructured(layer, name, amount=2)
    rows = {row.name: row for row in zeromean.explain(layer)}
    assert rows[f"{name}_orig"].centered
    assert rows[f"{name}_orig"].axes == axes[name]


@pytest.mark.parametrize("subject", [Experts, 3, "Experts"], ids=str)
def test_register_rejects_other_subjects(subject: object) -> None:
    if subject is Experts:
        subject = Experts()
    with pytest.raises(zeromean.ZeromeanError, match="module class or its qualified name"):
        register(subject)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "wrong",
    [
        {"axes": ()},
        {"axes": (-1,)},
        {"axes": (1, 1)},
        {"axes": 1},
        {"axes": (1.0,)},
        {"axes": (1,), "groups": 2},
        {"axes": (0,), "groups": 0},
        {"axes": (0,), "groups": 2.0},
        {"axes": (1,), "role": "convolution"},
        {"axes": (1,), "padding_idx": 0},
        {"axes": (0,), "groups": 2, "padding_idx": 0},
        {"axes": (0,), "padding_idx": -1},
        {"axes": (0,), "padding_idx": 1.0},
        {"axes": (0,), "padding_idx": "0"},
    ],
    ids=str,
)
def test_invalid_axes_raise(wrong: dict[str, object]) -> None:
    with pytest.raises(zeromean.ZeromeanError, match="FanIn"):
        FanIn(**wrong)  # type: ignore[arg-type]
