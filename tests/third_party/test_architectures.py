"""Test the exact sets of centered parameters and axes of third-party architectures."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from torch import Tensor, nn

import zeromean
from zeromean import FanIn
from zeromean.fan_in import _rules, register

SMALL = {
    "hidden_size": 8,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 12,
}
TOKENS = torch.tensor([[1, 4, 2, 9, 3], [5, 0, 7, 7, 10]])
IMAGES = torch.rand(2, 3, 16, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

Linear, Conv2d, Conv1D, Transposed = (1,), (1, 2, 3), (0,), (0, 2, 3)


class UNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Conv2d(3, 4, 3, stride=2, padding=1)
        self.norm = nn.GroupNorm(2, 4)
        self.bottom = nn.Conv2d(4, 8, 3, stride=2, padding=1)
        self.up = nn.ConvTranspose2d(8, 4, 2, stride=2)
        self.up_in_groups = nn.ConvTranspose2d(8, 4, 2, stride=2, groups=2)
        self.head = nn.Conv2d(4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        across = self.norm(self.down(x)).relu()
        up = self.up(self.bottom(across).relu())
        return self.head(self.up_in_groups(torch.cat([across, up], 1)))


class Recurrent(nn.Module):
    def __init__(self, kind: type[nn.RNNBase]) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 6)
        self.rnn = kind(6, 5, num_layers=2, bidirectional=True, batch_first=True)
        self.head = nn.Linear(10, 3)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.rnn(self.embed(tokens))[0][:, -1])


def recurrent_axes() -> dict[str, tuple[int, ...]]:
    axes = {
        f"rnn.weight_{kind}_l{layer}{direction}": Linear
        for kind in ("ih", "hh")
        for layer in (0, 1)
        for direction in ("", "_reverse")
    }
    return axes | {"head.weight": Linear}


def convnextv2() -> nn.Module:
    config = transformers.ConvNextV2Config(
        num_stages=2, hidden_sizes=[6, 8], depths=[1, 1], patch_size=2, num_labels=3
    )
    model = transformers.ConvNextV2ForImageClassification(config)
    for module in model.modules():  # GRN starts at zero, where its gains get no gradient
        if type(module).__name__ == "ConvNextV2GRN":
            nn.init.normal_(module.weight)
    return model


def convnext() -> nn.Module:
    config = transformers.ConvNextConfig(
        num_stages=2,
        hidden_sizes=[6, 8],
        depths=[1, 1],
        patch_size=2,
        num_labels=3,
        layer_scale_init_value=0.5,
    )
    return transformers.ConvNextForImageClassification(config)


def vit() -> nn.Module:
    return transformers.ViTForImageClassification(
        transformers.ViTConfig(**SMALL, image_size=16, patch_size=4, num_labels=3)
    )


def swin() -> nn.Module:
    return transformers.SwinForImageClassification(
        transformers.SwinConfig(
            image_size=16,
            patch_size=2,
            embed_dim=4,
            depths=[1, 1],
            num_heads=[1, 2],
            window_size=2,
            num_labels=3,
        )
    )


def gpt2() -> nn.Module:
    config = transformers.GPT2Config(
        n_layer=2, n_head=2, n_embd=8, vocab_size=11, n_positions=6, bos_token_id=0, eos_token_id=0
    )
    return transformers.GPT2LMHeadModel(config)


def bert() -> nn.Module:
    return transformers.BertForMaskedLM(
        transformers.BertConfig(**SMALL, vocab_size=11, max_position_embeddings=6)
    )


def llama(tied: bool = False) -> nn.Module:
    return transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            **SMALL, num_key_value_heads=1, vocab_size=11, tie_word_embeddings=tied
        )
    )


def within(prefix: str, names: dict[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """The same in each of two layers."""
    return {
        f"{prefix.format(n)}.{name}.weight": axes for n in (0, 1) for name, axes in names.items()
    }


def linear(*names: str) -> dict[str, tuple[int, ...]]:
    return dict.fromkeys(names, Linear)


LLAMA = within(
    "model.layers.{}",
    linear(
        *(f"self_attn.{x}_proj" for x in "qkvo"), *(f"mlp.{x}_proj" for x in ("gate", "up", "down"))
    ),
)
NEXT_BLOCK = {"dwconv": Conv2d, **linear("pwconv1", "pwconv2")}
ATTENTION = [f"attention.{x}_proj" for x in "qkvo"]

# name -> (model, input, centered parameter -> axes, left alone although it has two dimensions ->
# a word of the reason). Written down from the architectures: whatever multiplies features is a
# Linear or a convolution; position biases, class tokens, gains and layer scales are not.
ARCHITECTURES: dict[
    str, tuple[Callable[[], nn.Module], Tensor, dict[str, tuple[int, ...]], dict[str, str]]
] = {
    "transformers ViT": (
        vit,
        IMAGES,
        {"vit.embeddings.patch_embeddings.projection.weight": Conv2d, "classifier.weight": Linear}
        | within("vit.layers.{}", linear(*ATTENTION, "mlp.fc1", "mlp.fc2")),
        {"vit.embeddings.cls_token": "no rule", "vit.embeddings.position_embeddings": "no rule"},
    ),
    "transformers ConvNeXt V2": (
        convnextv2,
        IMAGES,
        {
            "convnextv2.embeddings.patch_embeddings.weight": Conv2d,
            "convnextv2.encoder.stages.1.downsampling_layer.1.weight": Conv2d,
            "classifier.weight": Linear,
        }
        | within("convnextv2.encoder.stages.{}.layers.0", NEXT_BLOCK),
        {
            f"convnextv2.encoder.stages.{n}.layers.0.grn.{name}": reason
            for n in (0, 1)
            for name, reason in (("weight", "no rule"), ("bias", "no rule"))
        },
    ),
    "transformers ConvNeXt, layer scales": (
        convnext,
        IMAGES,
        {
            "convnext.embeddings.patch_embeddings.weight": Conv2d,
            "convnext.encoder.stages.1.downsampling_layer.1.weight": Conv2d,
            "classifier.weight": Linear,
        }
        | within("convnext.encoder.stages.{}.layers.0", NEXT_BLOCK),
        {},
    ),
    "transformers Swin": (
        swin,
        IMAGES,
        {
            "swin.embeddings.patch_embeddings.projection.weight": Conv2d,
            "swin.encoder.layers.0.downsample.reduction.weight": Linear,
            "classifier.weight": Linear,
        }
        | within("swin.encoder.layers.{}.blocks.0", linear(*ATTENTION, "mlp.fc1", "mlp.fc2")),
        {
            f"swin.encoder.layers.{n}.blocks.0.attention.relative_position_bias"
            ".relative_position_bias_table": "no rule"
            for n in (0, 1)
        },
    ),
    "transformers GPT-2, tied": (
        gpt2,
        TOKENS,
        within(
            "transformer.h.{}",
            dict.fromkeys(["attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj"], Conv1D),
        ),
        {"transformer.wte.weight": "tied", "transformer.wpe.weight": "embedding"},
    ),
    "transformers BERT, tied": (
        bert,
        TOKENS,
        within(
            "bert.encoder.layer.{}",
            linear(
                *(f"attention.self.{x}" for x in ("query", "key", "value")),
                *("attention.output.dense", "intermediate.dense", "output.dense"),
            ),
        )
        | {"cls.predictions.transform.dense.weight": Linear},
        {
            "bert.embeddings.word_embeddings.weight": "tied",
            "bert.embeddings.position_embeddings.weight": "embedding",
            "bert.embeddings.token_type_embeddings.weight": "embedding",
        },
    ),
    "transformers Llama": (
        llama,
        TOKENS,
        LLAMA | {"lm_head.weight": Linear},
        {"model.embed_tokens.weight": "embedding"},
    ),
    "transformers Llama, tied": (
        lambda: llama(tied=True),
        TOKENS,
        LLAMA,
        {"model.embed_tokens.weight": "tied"},
    ),
    "U-Net": (
        UNet,
        IMAGES,
        {
            "down.weight": Conv2d,
            "bottom.weight": Conv2d,
            "up.weight": Transposed,
            "up_in_groups.weight": Transposed,
            "head.weight": Conv2d,
        },
        {},
    ),
    "LSTM": (
        lambda: Recurrent(nn.LSTM),
        TOKENS,
        recurrent_axes(),
        {"embed.weight": "embedding"},
    ),
    "GRU": (
        lambda: Recurrent(nn.GRU),
        TOKENS,
        recurrent_axes(),
        {"embed.weight": "embedding"},
    ),
}
GROUPS = {"up_in_groups.weight": 2}


def backward(model: nn.Module, x: Tensor) -> None:
    torch.manual_seed(1)  # the same dropout
    output = model(x)
    logits = output if isinstance(output, Tensor) else output.logits
    (logits.square().mean() + logits.sum()).backward()


def center_by_vector(x: Tensor, axes: tuple[int, ...], groups: int) -> Tensor:
    """Subtract the mean from each weight vector, one after the other."""
    centered = x.clone()
    for block in centered.chunk(groups):
        vectors = block.movedim(axes, tuple(range(-len(axes), 0)))
        for unit in np.ndindex(vectors.shape[: -len(axes)]):
            vectors[unit] -= vectors[unit].mean()
    return centered


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_exact_set_of_centered_parameters(name: str) -> None:
    make, _, axes, left_alone = ARCHITECTURES[name]
    plan = zeromean.explain(make())
    assert {row.name: row.axes for row in plan.centered} == axes
    assert {row.name: row.groups for row in plan.centered if row.groups > 1} == {
        name: GROUPS[name] for name in axes.keys() & GROUPS.keys()
    }
    # All others with more than one dimension are listed above, with a word of the reason.
    others = {row.name: row.reason for row in plan if not row.centered and len(row.shape) > 1}
    assert others.keys() == left_alone.keys()
    for parameter, word in left_alone.items():
        assert word in others[parameter]


@pytest.mark.parametrize("at", ["gradient", "update"])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_step_equals_centering_vector_by_vector(
    name: str, at: Any, supports: Callable[..., None]
) -> None:
    make, x, axes, _ = ARCHITECTURES[name]
    lr, decay = 0.1, 0.3
    model = make().double().train()
    reference = copy.deepcopy(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, weight_decay=decay)
    zeromean.centralize(optimizer, model, at=at)
    backward(model, x)
    optimizer.step()
    backward(reference, x)
    moved = []
    for (key, p), w in zip(model.named_parameters(), reference.parameters(), strict=True):
        if w.grad is None:
            assert torch.equal(p, w)
            continue
        direction = w.grad + decay * w.detach()
        if key in axes:
            direction = center_by_vector(direction, axes[key], GROUPS.get(key, 1))
            moved.append(key)
        torch.testing.assert_close(p.detach(), w.detach() - lr * direction)
    assert set(moved) == set(axes)
    supports(
        "Layer",
        name,
        at,
        "exact set of centered parameters; one step equal to centering vector by vector in float64",
    )


def mixture(transposed: bool) -> nn.Module:
    """Stacked experts whose two weights are (experts, out, in) or (experts, in, out)."""
    if transposed:
        config = transformers.GptOssConfig(
            hidden_size=8, intermediate_size=12, num_local_experts=3, num_hidden_layers=1
        )
        config._experts_implementation = "eager"
        experts = transformers.models.gpt_oss.modeling_gpt_oss.GptOssExperts(config)
    else:
        config = transformers.MixtralConfig(
            hidden_size=8, intermediate_size=12, num_local_experts=3
        )
        config._experts_implementation = "eager"
        experts = transformers.models.mixtral.modeling_mixtral.MixtralExperts(config)
    for parameter in experts.parameters():
        nn.init.normal_(parameter)
    return experts


@pytest.mark.parametrize("transposed", [False, True])
def test_stacked_experts_have_the_axes_of_their_computation(
    transposed: bool, supports: Callable[..., None]
) -> None:
    model = mixture(transposed).double()
    axes = (1,) if transposed else (2,)
    rows = {row.name: row for row in zeromean.explain(model)}
    assert {row.name: row.axes for row in rows.values() if row.centered} == {
        "gate_up_proj": axes,
        "down_proj": axes,
    }
    # A shift of all inputs by c changes a unit by c times the sum of its weight vector, which is
    # its fan-in times its mean: centered gate and up weights do not see the shift.
    with torch.no_grad():
        weight = model.gate_up_proj
        weight.copy_(zeromean.center(weight, rows["gate_up_proj"].axes))
    x = torch.randn(4, 8).double()
    chosen = torch.tensor([[0], [1], [2], [1]])
    weights = torch.ones(4, 1).double()
    torch.testing.assert_close(model(x + 3, chosen, weights), model(x, chosen, weights))
    kind = "in, out" if transposed else "out, in"
    supports("Layer", f"transformers experts ({kind})", "-", "axes, by a shift of the inputs")


def test_mixture_of_experts_is_described() -> None:
    config = transformers.MixtralConfig(**SMALL, vocab_size=11, num_local_experts=3)
    model = transformers.MixtralForCausalLM(config)
    assert zeromean.explain(model).undescribed() == ""
    assert {row.axes for row in zeromean.explain(model).centered if "experts" in row.name} == {(2,)}


def test_registered_rule_replaces_the_rule_for_experts() -> None:
    saved = dict(_rules)
    try:
        register("transformers.models.mixtral.modeling_mixtral.MixtralExperts")(
            lambda module: {"gate_up_proj": FanIn(axes=(2,)), "down_proj": None}
        )
        plan = zeromean.explain(mixture(transposed=False))
    finally:
        _rules.clear()
        _rules.update(saved)
    assert [row.name for row in plan.centered] == ["gate_up_proj"]
