"""Methods and their parts: each does what it says, in the order that is right."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from study_helpers import with_task
from torch import Tensor, nn

from zeromean.centralization.centralize import handle_of
from zeromean.centralization.zscore import standardize_, standardize_gradients
from zeromean.errors import ZeromeanError
from zeromean.fan_in import FanIn
from zeromean.reparam import NaturalLinear
from zeromean.study import Method, Study
from zeromean.study.networks.build import build
from zeromean.study.networks.language_models import Transformer
from zeromean.study.spec import presets
from zeromean.study.tasks.apply_method import attach, prepare_network
from zeromean.study.tasks.load import load


def gradients_seen(method: Method, network: nn.Module) -> dict[str, Tensor]:
    """Return the gradients that the optimizer used, read off the change of the weights."""
    network.double()
    optimizer = torch.optim.SGD(network.parameters(), lr=1.0)
    attach(optimizer, network, method)
    before = {name: one.detach().clone() for name, one in network.named_parameters()}
    for number, parameter in enumerate(network.parameters()):
        parameter.grad = torch.randn_like(parameter) * 3 + number
    optimizer.step()
    return {name: before[name] - one.detach() for name, one in network.named_parameters()}


@pytest.fixture
def network() -> nn.Module:
    return build("cnn", 1, 8, 10, seed=0)


@pytest.mark.parametrize("name", ["lecun", "xavier", "he"])
def test_initialization_sets_all_biases_to_zero(name: str) -> None:
    network = nn.Sequential(nn.LSTM(3, 4), nn.Linear(4, 2))
    prepare_network(network, presets.method(f"init={name}"))
    biases = [p for key, p in network.named_parameters() if "bias" in key]
    assert len(biases) == 3
    assert not any(bias.any() for bias in biases)


@pytest.mark.parametrize("name", ["lecun", "xavier", "he"])
def test_initialization_leaves_embeddings_and_tokens_unchanged(name: str) -> None:
    network = nn.ModuleList([nn.Embedding(5, 4), nn.MultiheadAttention(4, 2, add_bias_kv=True)])
    before = [one.detach().clone() for one in (network[0].weight, network[1].bias_k)]
    prepare_network(network, presets.method(f"init={name}"))
    assert torch.equal(network[0].weight, before[0])
    assert torch.equal(network[1].bias_k, before[1])


@pytest.mark.parametrize(
    ("features", "groups"), [(2048, 32), (64, 32), (96, 32), (48, 24), (16, 8), (3, 1), (1, 1)]
)
def test_group_normalization_has_up_to_32_groups(features: int, groups: int) -> None:
    for layer in (nn.Conv2d(1, features, 1), nn.Linear(1, features)):
        network = nn.Sequential(layer, nn.Linear(features, 2))
        prepare_network(network, presets.method("norm=group"))
        (norm,) = (one for one in network.modules() if isinstance(one, nn.GroupNorm))
        assert (norm.num_groups, norm.num_channels) == (groups, features)


def test_clipping_by_norm_comes_before_centering(network: nn.Module) -> None:
    seen = gradients_seen(Method("m", gradient="gc", clip_norm=0.5), network)
    means = [g.flatten(1).mean(1).abs().max() for g in seen.values() if g.ndim > 1]
    assert max(means) < 1e-7
    # Were it clipped last, the whole would be exactly as long as the bound.
    assert torch.stack([g.norm() for g in seen.values()]).norm() < 0.499
    clipped = gradients_seen(Method("m", clip_norm=0.5), build("cnn", 1, 8, 10, seed=0))
    assert torch.stack([g.norm() for g in clipped.values()]).norm() == pytest.approx(0.5)


def test_clipping_by_value_bounds_every_entry(network: nn.Module) -> None:
    seen = gradients_seen(Method("m", clip_value=0.25), network)
    assert max(g.abs().max() for g in seen.values()) == pytest.approx(0.25)


def test_zscore_gradients_have_mean_0_and_deviation_1(network: nn.Module) -> None:
    seen = gradients_seen(presets.method("zscore"), network)
    for gradient in seen.values():
        if gradient.ndim > 1:
            vectors = gradient.flatten(1)
            assert vectors.mean(1).abs().max() < 1e-5
            torch.testing.assert_close(
                vectors.std(1, correction=0), torch.ones(len(vectors)).double(), atol=1e-5, rtol=0
            )


@pytest.mark.usefixtures("native_library")
@pytest.mark.parametrize("method", ["plain", "zscore", "ws-conv", "gc", "gc-update"])
def test_the_same_kernels_step_every_method(method: str, network: nn.Module) -> None:
    """So a difference in time is the cost of centering."""
    prepare_network(network, presets.method(method))
    optimizer = torch.optim.AdamW(network.parameters())
    attach(optimizer, network, presets.method(method))
    handle = handle_of(optimizer)
    assert handle is not None
    assert handle.way.name == "taken over"
    assert bool(handle.plan.centered) == method.startswith("gc")


def test_standardizing_knows_groups_and_constants() -> None:
    gradient = torch.randn(4, 3, 5, dtype=torch.float64)
    gradient[:2, 1] = 7
    standardize_(gradient, FanIn(axes=(0, 2), groups=2))
    blocks = gradient.view(2, 2, 3, 5)
    assert blocks.mean((1, 3)).abs().max() < 1e-12
    deviations = blocks.std((1, 3), correction=0)
    assert deviations[0, 1] == 0
    deviations[0, 1] = 1
    torch.testing.assert_close(deviations, torch.ones(2, 3, dtype=torch.float64))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_standardizing_half_precision(dtype: torch.dtype) -> None:
    gradient = 1e-3 * torch.randn(2, 512).to(dtype)
    gradient[0] = 0.1
    standardize_(gradient, FanIn(axes=(1,)))
    assert not gradient[0].any()
    assert gradient[1].float().std(correction=0) == pytest.approx(1, abs=1e-2)
    assert gradient[1].float().mean().abs() < 1e-3


@pytest.mark.parametrize("way", ["closure", "fused step with a gradient scaler"])
def test_standardizing_gradients_that_the_step_computes_or_unscales(way: str) -> None:
    network = nn.Linear(8, 3)
    optimizer = torch.optim.SGD(network.parameters(), lr=1.0, fused=way != "closure")
    standardize_gradients(optimizer, network)
    before = network.weight.detach().clone()
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, enabled=way != "closure")

    def closure() -> Tensor:
        loss = network(torch.randn(4, 8)).square().sum()
        scaler.scale(loss).backward()
        return loss

    if way == "closure":
        assert optimizer.step(closure) > 0
    else:
        closure()
        scaler.step(optimizer)
    deviations = (network.weight.detach() - before).std(1, correction=0)
    torch.testing.assert_close(deviations, torch.ones(3))


@pytest.mark.parametrize("name", ["batch", "group", "none"])
def test_normalization_is_put_in_changed_and_taken_out(name: str) -> None:
    network = build("resnet20", 3, 16, 10, seed=0)
    if name == "batch":
        prepare_network(network, presets.method("norm=group"))
    prepare_network(network, presets.method(f"norm={name}"))
    kinds = [type(module) for module in network.modules()]
    counts = {
        kind: kinds.count(kind) for kind in (nn.BatchNorm2d, nn.GroupNorm) if kinds.count(kind)
    }
    assert counts == {"batch": {nn.BatchNorm2d: 19}, "group": {nn.GroupNorm: 19}, "none": {}}[name]
    assert network(torch.rand(2, 3, 16, 16)).shape == (2, 10)


def test_normalization_is_added_after_all_layers_but_the_last(
    network: nn.Module,
) -> None:
    prepare_network(network, presets.method("norm=batch"))
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    assert [norm.num_features for norm in norms] == [32, 64]
    assert network(torch.rand(2, 1, 8, 8)).shape == (2, 10)
    mlp = build("mlp", 1, 8, 10, seed=0)
    prepare_network(mlp, presets.method("norm=group"))
    assert sum(isinstance(module, nn.GroupNorm) for module in mlp.modules()) == 2


def test_normalization_follows_convolutions_of_every_dimension() -> None:
    network = nn.Sequential(
        nn.Conv1d(2, 4, 3), nn.Unflatten(1, (4, 1)), nn.Conv2d(4, 6, 1), nn.Unflatten(1, (6, 1)),
        nn.ConvTranspose3d(6, 8, 1), nn.Flatten(), nn.LazyLinear(4), nn.Linear(4, 2),
    ).double()  # fmt: skip
    prepare_network(network, presets.method("norm=batch"))
    norms = [type(one) for one in network.modules() if hasattr(one, "running_mean")]
    assert norms == [nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.BatchNorm1d]
    assert network(torch.rand(5, 2, 9).double()).shape == (5, 2)


def test_modules_with_two_names_are_changed_at_both() -> None:
    layer, norm = nn.Linear(4, 4), nn.BatchNorm1d(4)
    normalized = nn.Sequential(nn.Linear(4, 4), norm, nn.ReLU(), norm, nn.Linear(4, 2))
    prepare_network(normalized, presets.method("norm=none"))
    assert type(normalized[1]) is type(normalized[3]) is nn.Identity
    plain = nn.Sequential(layer, nn.ReLU(), layer, nn.Linear(4, 2))
    prepare_network(plain, presets.method("norm=group"))
    assert plain[0] is plain[2]
    assert plain[0][0] is layer
    assert isinstance(plain[0][1], nn.GroupNorm)


def test_there_must_be_a_normalization_to_take_out(network: nn.Module) -> None:
    with pytest.raises(ZeromeanError, match="changes nothing"):
        prepare_network(network, presets.method("norm=none"))


def test_replacing_batch_normalization_by_itself_is_refused() -> None:
    with pytest.raises(ZeromeanError, match='"batch" changes nothing'):
        prepare_network(build("vgga", 3, 32, 10, seed=0), presets.method("norm=batch"))


def test_a_normalization_that_may_do_more_is_refused() -> None:
    class WithActivation(nn.BatchNorm2d):  # as some of timm's are
        def forward(self, input: torch.Tensor) -> torch.Tensor:
            return super().forward(input).relu()

    network = nn.Sequential(nn.Conv2d(1, 4, 3), WithActivation(4))
    with pytest.raises(
        ZeromeanError, match="cannot replace WithActivation, which may do more than"
    ):
        prepare_network(network, presets.method("norm=group"))


@pytest.mark.parametrize("name", ["batch", "group"])
def test_networks_with_another_normalization_are_refused(name: str) -> None:
    for network in (Transformer(7), nn.Sequential(nn.Linear(2, 3), nn.RMSNorm(3), nn.Linear(3, 2))):
        with pytest.raises(ZeromeanError, match=r"cannot replace (LayerNorm|RMSNorm)"):
            prepare_network(network, presets.method(f"norm={name}"))


@pytest.mark.parametrize("width", [2, 5, 8, 48])
def test_group_normalization_of_vectors_is_not_zero(width: int) -> None:
    network = nn.Sequential(nn.Linear(3, width), nn.ReLU(), nn.Linear(width, 2))
    prepare_network(network, presets.method("norm=group"))
    assert network[0](torch.rand(4, 3)).abs().amax(1).min() > 0.1


@pytest.mark.parametrize(
    ("name", "variance"),
    [
        ("lecun", lambda m, n: 1 / m),
        ("he", lambda m, n: 2 / m),
        ("xavier", lambda m, n: 2 / (m + n)),
        ("torch", lambda m, n: 1 / (3 * m)),
    ],
)
def test_initial_weights_have_the_variance_of_their_kind(
    name: str, variance: Callable[[int, int], float]
) -> None:
    network = nn.Sequential(nn.Conv2d(16, 64, 3), nn.Linear(400, 300), nn.BatchNorm2d(3))
    prepare_network(network, presets.method(f"init={name}"))
    for index, fans in ((0, (144, 576)), (1, (400, 300))):
        weight = network[index].weight
        assert weight.var().item() == pytest.approx(variance(*fans), rel=0.06)
        assert abs(weight.mean().item()) < 0.01
        assert name == "torch" or not network[index].bias.any()
    assert torch.equal(network[2].weight, torch.ones(3))


@pytest.mark.parametrize("name", ["wn", "cwn", "ws", "nnn", "wn-unit", "cwn-unit"])
def test_weights_are_reparametrized(name: str, network: nn.Module) -> None:
    before = len(list(network.modules()))
    prepare_network(network, presets.method(name))
    assert len(list(network.modules())) > before or name.startswith("nnn")
    assert network(torch.rand(2, 1, 8, 8)).shape == (2, 10)


@pytest.mark.parametrize("name", ["wn", "cwn"])
def test_a_unit_start_makes_every_weight_vector_one_long(name: str, network: nn.Module) -> None:
    prepare_network(network, presets.method(f"{name}-unit"))
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            vectors = module.weight.flatten(1)
            torch.testing.assert_close(vectors.norm(dim=1), torch.ones(len(vectors)))
            assert name == "wn" or vectors.mean(1).abs().max() < 1e-7
            gain = module.parametrizations.weight.original0
            assert gain.requires_grad
            assert (gain == 1).all()


def test_eps_reaches_nnn(network: nn.Module) -> None:
    method = Method("m", reparametrization="nnn", eps=0.01, initialization="he")
    assert method.calls.endswith('reparametrize(model, "nnn", eps=0.01)')
    prepare_network(network, method)
    (layer,) = (module for module in network.modules() if isinstance(module, NaturalLinear))
    assert layer.eps == 0.01


@pytest.mark.parametrize("name", ["wn-conv", "cwn-conv", "ws-conv", "cwn-conv-unit"])
def test_conv_methods_leave_the_classifier_plain(name: str, network: nn.Module) -> None:
    prepare_network(network, presets.method(name))
    layers = [one for one in network.modules() if isinstance(one, nn.Conv2d | nn.Linear)]
    assert [hasattr(one, "parametrizations") for one in layers] == [True, True, False]


def test_gc_tensor_centers_the_whole_tensor(network: nn.Module) -> None:
    seen = gradients_seen(presets.method("gc-tensor"), network)
    weights = [gradient for gradient in seen.values() if gradient.ndim > 1]
    assert max(gradient.mean().abs() for gradient in weights) < 1e-6
    assert min(gradient.flatten(1).mean(1).abs().max() for gradient in weights) > 1e-3


@pytest.mark.parametrize(
    ("method", "model", "message"),
    [
        ("gc-conv", "mlp", "needs conv layers"),
        ("ws-conv", "mlp", "needs conv layers"),
        ("cwn+gc", "mlp", "a part of the method .* changes nothing"),
        ("norm=none", "mlp", "changes nothing in this network"),
    ],
)
def test_methods_without_effect_are_refused_before_training(
    study: Study, method: str, model: str, message: str
) -> None:
    changed = with_task(study, model=model, methods=("plain", method))
    with pytest.raises(ZeromeanError, match=message):
        load(changed, changed.tasks[0]).check(changed.methods, changed.optimizers)
