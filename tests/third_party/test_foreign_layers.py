"""Test third-party layers, found by qualified name or base class."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import bitsandbytes
import peft
import pytest
import torch
import transformers
from torch import Tensor, nn
from torch.nn import functional as F
from torchao.quantization import Int8WeightOnlyConfig, quantize_

import zeromean
from brute_force import center_vectors, layer_vectors

Say = Callable[[str, str, str, str], None]


def trained(model: nn.Module) -> dict[str, tuple[int, ...]]:
    """The centered parameters of an optimizer that holds what is trainable."""
    optimizer = torch.optim.SGD((p for p in model.parameters() if p.requires_grad), lr=0.1)
    with zeromean.centralize(optimizer, model) as handle:
        return {row.name: row.axes for row in handle.plan.centered}


def test_transformers_conv1d_has_inputs_first(supports: Say) -> None:
    layer = transformers.pytorch_utils.Conv1D(3, 5)  # (out, in), stored as (in, out)
    vectors = layer_vectors(layer, lambda: (torch.rand(2, 5).double() + 0.1,))
    (row,) = zeromean.explain(layer).centered
    assert row.axes == (0,)
    gradient = torch.randn(layer.weight.shape, dtype=torch.float64)
    torch.testing.assert_close(
        zeromean.center(gradient, row.axes), center_vectors(gradient, vectors)
    )
    supports("Layer", "transformers Conv1D", "-", "vectors found by what the layer computes")


class WithConvolution(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(5, 4)
        self.conv = nn.Conv2d(3, 4, 3)
        self.head = nn.Linear(6, 5)


@pytest.mark.parametrize("dora", [False, True])
def test_lora_centers_a_and_b(dora: bool, supports: Say) -> None:
    model = peft.get_peft_model(
        WithConvolution(), peft.LoraConfig(r=2, target_modules=["head", "conv"], use_dora=dora)
    )
    assert trained(model) == {
        f"base_model.model.{layer}.lora_{factor}.default.weight": axes
        for layer, axes in (("conv", (1, 2, 3)), ("head", (1,)))
        for factor in "AB"
    }
    supports("Layer", "PEFT LoRA and DoRA", "-", "exact set of centered parameters")


def test_lora_of_rank_one_leaves_b_alone() -> None:
    model = peft.get_peft_model(WithConvolution(), peft.LoraConfig(r=1, target_modules=["head"]))
    assert trained(model) == {"base_model.model.head.lora_A.default.weight": (1,)}


class Mixture(nn.Module):
    """The experts of a transformers model."""

    def __init__(self, transposed: bool) -> None:
        super().__init__()
        models = transformers.models
        if transposed:
            config = transformers.GptOssConfig(
                hidden_size=8, intermediate_size=12, num_local_experts=3
            )
            self.experts = models.gpt_oss.modeling_gpt_oss.GptOssExperts(config)
        else:
            config = transformers.MixtralConfig(
                hidden_size=8, intermediate_size=12, num_local_experts=3
            )
            self.experts = models.mixtral.modeling_mixtral.MixtralExperts(config)


@pytest.mark.parametrize("transposed", [False, True])
def test_lora_of_experts_centers_a_and_leaves_b_alone(transposed: bool, supports: Say) -> None:
    adapted = peft.get_peft_model(
        Mixture(transposed), peft.LoraConfig(r=2, target_parameters=["experts.gate_up_proj"])
    )
    prefix = "base_model.model.experts"
    assert trained(adapted) == {f"{prefix}.lora_A.default.weight": (1,)}
    (b,) = (row for row in zeromean.explain(adapted) if "lora_B" in row.name)
    assert "3 experts in turn" in b.reason
    report = zeromean.reparametrize(adapted, "wn", layers=lambda name, module: "lora" in name)
    assert [change.row.name for change in report if change.done] == [
        f"{prefix}.lora_A.default.weight"
    ]
    supports("Layer", "PEFT LoRA of stacked experts", "-", "A centered; B left alone")


def test_lora_of_a_parameter_of_unknown_layout_is_left_alone() -> None:
    class Raw(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(3, 5, 4))

    model = nn.ModuleDict({"raw": Raw(), "known": nn.Linear(4, 4)})
    adapted = peft.get_peft_model(model, peft.LoraConfig(r=2, target_parameters=["raw.weight"]))
    rows = [row for row in zeromean.explain(adapted) if "lora" in row.name]
    assert len(rows) == 2
    assert not any(row.centered for row in rows)
    assert all("Raw.weight" in row.reason for row in rows)


def test_lora_of_the_weight_of_a_linear_is_centered() -> None:
    adapted = peft.get_peft_model(
        WithConvolution(), peft.LoraConfig(r=2, target_parameters=["head.weight"])
    )
    assert trained(adapted) == {
        f"base_model.model.head.lora_{factor}.default.weight": (1,) for factor in "AB"
    }


def test_lily_stores_b_transposed() -> None:
    model = nn.Sequential(nn.Linear(6, 5), nn.Linear(5, 4))
    adapted = peft.get_peft_model(
        model, peft.LilyConfig(r=3, num_B=2, stride_A=1, target_modules=["0", "1"])
    )
    rows = {row.name: row for row in zeromean.explain(adapted) if "lily" in row.name}
    parts = {name.rpartition("lily_")[2].partition(".")[0] for name in rows}
    assert parts == {"A", "B", "router"}
    for name, row in rows.items():
        assert (row.axes, row.groups) == (((0,), 2) if "lily_B" in name else ((1,), 1))
        assert row.centered


def test_bitsandbytes_weights_are_left_alone(supports: Say) -> None:
    model = nn.Sequential(
        bitsandbytes.nn.Linear4bit(8, 4),
        bitsandbytes.nn.Linear8bitLt(8, 4, has_fp16_weights=False),
        bitsandbytes.nn.Linear8bitLt(8, 4),  # trains its weights: an ordinary Linear to GC
    )
    for quantized_now in (False, True):  # .to(device) quantizes
        rows = {row.name: row for row in zeromean.explain(model)}
        assert "quantized by bitsandbytes" in rows["0.weight"].reason
        assert rows["1.weight"].centered != quantized_now
        assert rows["2.weight"].centered
        model.to("cpu")
    assert "int8 entries have no mean" in rows["1.weight"].reason
    supports("Layer", "bitsandbytes Linear4bit, Linear8bitLt", "-", "codes are left alone")


def test_torchao_weights_are_left_alone(supports: Say) -> None:
    model = nn.Sequential(nn.Linear(64, 32), nn.Linear(32, 16))
    quantize_(model, Int8WeightOnlyConfig(), lambda module, name: name == "0")
    rows = {row.name: row for row in zeromean.explain(model)}
    assert "quantized by torchao" in rows["0.weight"].reason
    assert rows["1.weight"].centered
    supports("Layer", "torchao quantized Linear", "-", "codes are left alone")


def test_lora_over_a_quantized_layer() -> None:
    model = nn.Sequential(bitsandbytes.nn.Linear4bit(8, 4)).to("cpu")
    adapted = peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules=["0"]))
    assert trained(adapted) == {
        f"base_model.model.0.lora_{factor}.default.weight": (1,) for factor in "AB"
    }


# timm needs torchvision to be imported, so these stand in for its classes: their qualified names,
# bases and parameters.


def as_timm(module: str) -> Callable[[type], type]:
    def rename(kind: type) -> type:
        kind.__module__ = f"timm.layers.{module}"
        return kind

    return rename


@as_timm("std_conv")
class StdConv2d(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        weight = F.batch_norm(
            self.weight.reshape(1, self.out_channels, -1), None, None, training=True, eps=1e-6
        ).reshape_as(self.weight)
        return F.conv2d(x, weight, self.bias)


@as_timm("std_conv")
class ScaledStdConv2d(nn.Conv2d):
    def __init__(self, *sizes: int) -> None:
        super().__init__(*sizes)
        self.gain = nn.Parameter(torch.full((self.out_channels, 1, 1, 1), 1.0))


@as_timm("linear")
class Linear(nn.Linear):
    pass


@as_timm("layer_scale")
class LayerScale(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(dim))


TIMM: dict[str, tuple[nn.Module, dict[str, tuple[int, ...]]]] = {
    "StdConv2d": (StdConv2d(3, 4, 3), {"weight": (1, 2, 3)}),
    "ScaledStdConv2d": (ScaledStdConv2d(3, 4, 3), {"weight": (1, 2, 3)}),
    "Linear": (Linear(3, 4), {"weight": (1,)}),
    "LayerScale": (LayerScale(4), {}),
}


@pytest.mark.parametrize("name", TIMM)
def test_timm_layers(name: str, supports: Say) -> None:
    layer, axes = TIMM[name]
    plan = zeromean.explain(layer)
    assert {row.name: row.axes for row in plan.centered} == axes
    assert all(row.reason for row in plan)
    supports("Layer", f"timm {name}", "-", "axes, on a class of the same name, bases, parameters")


def test_centering_a_standardized_weight_changes_nothing() -> None:
    """The gradient through a standardized weight is zero-mean already."""
    layer: Any = StdConv2d(3, 4, 3).double()
    layer(torch.randn(2, 3, 6, 6).double()).square().sum().backward()
    torch.testing.assert_close(zeromean.center(layer.weight.grad, (1, 2, 3)), layer.weight.grad)
