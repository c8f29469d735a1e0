"""Re-parametrized models with the tools that people train and export them with."""

from __future__ import annotations

import copy
import io
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from reparam_layers import METHODS
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.optim import swa_utils
from torch.utils.checkpoint import checkpoint

import zeromean

Say = Any

# torch's compiler warns of torch's own calls.
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated")


@pytest.fixture
def _fresh() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def network(method: Any = "cwn", **options: Any) -> nn.Sequential:
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ReLU(), nn.ConvTranspose2d(4, 6, 2, groups=2), nn.Flatten(),
        nn.Linear(6 * 5 * 5, 3),
    ).double()  # fmt: skip
    zeromean.reparametrize(model, method, **options)
    return model


def batch(number: int = 0, size: int = 4) -> Tensor:
    generator = torch.Generator().manual_seed(number)
    return torch.randn(size, 3, 6, 6, generator=generator, dtype=torch.float64)


def train(model: Any, parameters: Any, steps: int = 3, optimizer: Any = None) -> None:
    optimizer = optimizer or torch.optim.SGD(parameters, lr=0.1, momentum=0.9)
    for number in range(steps):
        optimizer.zero_grad()
        model(batch(number)).square().mean().backward()
        optimizer.step()


def assert_same(a: nn.Module, b: nn.Module, **tolerance: float) -> None:
    for p, q in zip(a.parameters(), b.parameters(), strict=True):
        torch.testing.assert_close(p, q, **tolerance)


@pytest.mark.usefixtures("_fresh")
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("compiler", ["eager", "aot_eager"])
def test_compiled_training_equals_eager(method: str, compiler: str, supports: Say) -> None:
    model = network(method)
    twin = copy.deepcopy(model)
    train(torch.compile(model, backend=compiler, fullgraph=True), model.parameters())
    train(twin, twin.parameters())
    assert_same(model, twin)
    supports("Weights", f"{method}, torch.compile, {compiler}", "-", "one graph, equal to eager")


@pytest.mark.usefixtures("_fresh")
def test_inductor_equals_eager(supports: Say) -> None:
    model = network()
    twin = copy.deepcopy(model)
    train(torch.compile(model), model.parameters())
    train(twin, twin.parameters())
    assert_same(model, twin)
    supports("Weights", "cwn, torch.compile, inductor", "-", "equal to eager")


@pytest.mark.usefixtures("_fresh")
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
def test_compiled_nnn_equals_eager(supports: Say) -> None:
    model = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 2)).double()
    zeromean.reparametrize(model, "nnn", every=2)
    twin = copy.deepcopy(model)
    compiled = torch.compile(model, backend="aot_eager")
    for net, run in ((model, compiled), (twin, twin)):
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        for number in range(5):
            optimizer.zero_grad()
            run(batch(number)[:, 0]).square().mean().backward()
            optimizer.step()
    assert_same(model, twin)
    assert not torch.equal(model[0].U, torch.eye(6).double())
    supports("Weights", "nnn, torch.compile", "-", "estimates outside the graph, equal to eager")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("method", METHODS)
def test_autocast_computes_the_weight_in_float32(method: str, dtype: Any, supports: Say) -> None:
    model = network(method, scale="learned").float()
    x = batch().float()
    weights = [layer.weight.detach().clone() for layer in (model[0], model[4])]
    with torch.autocast("cpu", dtype=dtype):
        for layer, weight in zip((model[0], model[4]), weights, strict=True):
            assert layer.weight.dtype is torch.float32
            assert torch.equal(layer.weight, weight)
        output = model(x)
        assert output.dtype is dtype
    output.float().square().mean().backward()
    scaler = torch.amp.GradScaler("cpu")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with torch.autocast("cpu", dtype=dtype):
        loss = model(x).float().square().mean()
    optimizer.zero_grad()
    scaler.scale(loss).backward()
    scaler.unscale_(optimizer)
    low = [p.grad.clone() for p in model.parameters()]
    optimizer.zero_grad()
    model(x).square().mean().backward()
    largest = max(float(p.grad.abs().max()) for p in model.parameters())
    for p, grad in zip(model.parameters(), low, strict=True):
        assert grad.dtype is torch.float32
        torch.testing.assert_close(grad, p.grad, rtol=0.05, atol=0.05 * largest)
    scaler.step(optimizer)
    supports(
        "Weights", f"{method}, autocast to {str(dtype)[6:]}", "-", "weights equal to float32's"
    )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("method", METHODS)
def test_half_precision_model_trains_and_folds(method: str, dtype: Any) -> None:
    model = network(method, scale="learned").to(dtype)
    output = model(batch().to(dtype))
    output.float().square().mean().backward()
    for p in model.parameters():
        assert p.grad is not None
        assert p.grad.dtype is dtype
        assert p.grad.isfinite().all()
    weight = model[0].weight.detach().clone()
    assert weight.dtype is dtype
    means = weight.float().mean((1, 2, 3)).abs()
    assert (means.max() < torch.finfo(dtype).eps) == (method != "wn")
    zeromean.fold(model)
    assert torch.equal(model[0].weight, weight)
    assert torch.equal(model(batch().to(dtype)), output)


@pytest.mark.parametrize("average", ["mean", "exponential"])
@pytest.mark.parametrize("method", METHODS)
def test_swa_and_ema_average_the_proxies(method: str, average: str, supports: Say) -> None:
    model = network(method)
    how = {"mean": None, "exponential": swa_utils.get_ema_multi_avg_fn(0.9)}[average]
    averaged = swa_utils.AveragedModel(model, multi_avg_fn=how)
    seen = []
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(3):
        train(model, None, 1, optimizer)
        averaged.update_parameters(model)
        seen.append([p.detach().clone() for p in model.parameters()])
    expected = seen[0]
    for number, values in enumerate(seen[1:], start=1):
        share = 0.1 if average == "exponential" else 1 / (number + 1)
        expected = [e + share * (v - e) for e, v in zip(expected, values, strict=True)]
    torch.testing.assert_close([p.detach() for p in averaged.module.parameters()], expected)
    before = averaged(batch())
    zeromean.fold(averaged.module)
    assert torch.equal(averaged(batch()), before)
    model(batch())  # the original is still re-parametrized
    assert parametrize.is_parametrized(model[0])
    supports(
        "Weights", f"{method}, swa_utils, {average} average", "-", "average of the proxies, folds"
    )


@pytest.mark.parametrize("options", [{}, {"scale": 1.5}, {"mean": "keep"}], ids=str)
@pytest.mark.parametrize("method", ["cwn", "ws"])
def test_copy_and_state_dict_continue_training(method: str, options: Any, supports: Say) -> None:
    model = network(method, **options)
    train(model, model.parameters())
    copied = copy.deepcopy(model)
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    torch.manual_seed(7)
    fresh = network(method, **options)
    fresh.load_state_dict(torch.load(file, weights_only=True))
    for other in (copied, fresh):
        assert torch.equal(other(batch()), model(batch()))
        train(other, other.parameters())
    train(model, model.parameters())
    for other in (copied, fresh):
        assert_same(other, model)
    supports("Weights", f"{method}, deepcopy and state_dict", "-", "equal outputs and steps after")


def test_torch_remove_parametrizations_keeps_the_weights() -> None:
    model = network()
    before = model(batch())
    for layer in (model[0], model[2], model[4]):
        parametrize.remove_parametrizations(layer, "weight")
    assert torch.equal(model(batch()), before)
    train(model, model.parameters())


@pytest.mark.parametrize("method", METHODS)
def test_two_forward_passes_per_step(method: str, supports: Say) -> None:
    """The gradient is the sum of both, with and without torch's cache."""
    model = network(method)
    apart = [gradient(copy.deepcopy(model), number) for number in range(2)]
    expected = [a + b for a, b in zip(*apart, strict=True)]
    for context in (torch.enable_grad, parametrize.cached):
        model.zero_grad()
        with context():
            (model(batch(0)).square().mean() + model(batch(1)).square().mean()).backward()
        torch.testing.assert_close([p.grad for p in model.parameters()], expected)
    supports(
        "Weights",
        f"{method}, two forward passes per step, parametrize.cached",
        "-",
        "sum of gradients",
    )


def gradient(model: nn.Module, number: int) -> list[Any]:
    model(batch(number)).square().mean().backward()
    return [p.grad for p in model.parameters()]


@pytest.mark.parametrize("reentrant", [True, False])
@pytest.mark.parametrize("method", METHODS)
def test_gradient_checkpointing(method: str, reentrant: bool, supports: Say) -> None:
    model, x = network(method), batch().requires_grad_()
    expected = gradient(copy.deepcopy(model), 0)
    checkpoint(model, x, use_reentrant=reentrant).square().mean().backward()
    torch.testing.assert_close([p.grad for p in model.parameters()], expected)
    supports("Weights", f"{method}, gradient checkpointing", "-", "equal gradients")


@pytest.mark.parametrize("method", [*METHODS, "nnn"])
def test_export_after_fold(method: Any, supports: Say) -> None:
    model = network(method)
    model(batch())
    model.eval()
    expected = model(batch())
    zeromean.fold(model)
    program = torch.export.export(model, (batch(),))
    torch.testing.assert_close(program.module()(batch()), expected)
    assert not [node for node in program.graph.nodes if "norm" in str(node.target)]
    supports("Weights", f"{method}, torch.export after fold", "-", "same outputs, a plain graph")


@pytest.mark.parametrize("method", METHODS)
def test_export_without_fold_computes_the_weight(method: str) -> None:
    model = network(method).eval()
    program = torch.export.export(model, (batch(),))
    torch.testing.assert_close(program.module()(batch()), model(batch()))


@pytest.mark.filterwarnings("ignore")  # the exporter's own
def test_onnx_after_fold(supports: Say) -> None:
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxscript")
    from onnx.reference import ReferenceEvaluator

    # ONNX's own evaluator cannot do grouped transposed convolutions.
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3))
    zeromean.reparametrize(model, "cwn")
    x = batch().float()
    expected = model(x).detach()
    zeromean.fold(model.eval())
    file = io.BytesIO()
    torch.onnx.export(model, (x,), file, dynamo=True, verbose=False)
    exported = onnx.load_from_string(file.getvalue())
    names = {node.op_type for node in exported.graph.node}
    assert not names & {"ReduceMean", "ReduceL2", "Sqrt"}
    (output,) = ReferenceEvaluator(exported).run(None, {exported.graph.input[0].name: x.numpy()})
    torch.testing.assert_close(torch.from_numpy(output), expected, rtol=1e-4, atol=1e-5)
    supports("Weights", "cwn, ONNX after fold", "-", "same outputs in ONNX's own evaluator")


@pytest.mark.parametrize("method", METHODS)
def test_backward_stores_nothing_of_the_weight_s_size(method: str, backend: str) -> None:
    """Backward needs the proxy, which exists anyway, and a few numbers per weight vector."""
    layer = nn.Linear(64, 32, bias=False)
    zeromean.reparametrize(layer, method, scale="learned")
    kept: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x) or x, lambda x: x):
        weight = layer.weight
    v = layer.parametrizations.weight.original1
    large = [x for x in kept if x.numel() > 2 * 32]
    assert all(x.data_ptr() == v.data_ptr() for x in large)
    assert weight.data_ptr() != v.data_ptr()


@pytest.mark.parametrize(
    "name",
    [
        "torch.nn.parallel.distributed.DistributedDataParallel",
        "torch.distributed.fsdp.fully_sharded_data_parallel.FullyShardedDataParallel",
    ],
)
def test_wrapped_models_are_refused(name: str) -> None:
    """The classes have the names of torch's, which need a process group."""
    module, _, kind = name.rpartition(".")
    wrapped = type(kind, (nn.Sequential,), {"__module__": module})(nn.Linear(4, 3))
    with pytest.raises(zeromean.ZeromeanError, match="Call reparametrize first, then wrap it"):
        zeromean.reparametrize(wrapped, "cwn")
    with pytest.raises(zeromean.ZeromeanError, match="Call fold first, then wrap it"):
        zeromean.fold(wrapped)
