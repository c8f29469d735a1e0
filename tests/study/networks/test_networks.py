"""The architectures, by what is published of them, and their initial weights."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import zeromean
from zeromean.errors import ZeromeanError
from zeromean.study.networks.build import NETWORKS, build
from zeromean.study.networks.densenet import DenseLayer
from zeromean.study.networks.googlenet import Inception
from zeromean.study.networks.language_models import LSTM, TEXT_NETWORKS, Transformer
from zeromean.study.networks.resnet import BasicBlock, Bottleneck, PaddedShortcut
from zeromean.study.spec import presets
from zeromean.study.tasks.apply_method import prepare_network

# The smallest side in pixels of the images for networks that halve their size.
LEAST = {"cnn": 4, "densenet121": 8, "googlenet": 8, "googlenet-imagenet": 32, "horses": 22}


def outline(name: str, channels: int = 3, side: int = 32, classes: int = 10) -> nn.Module:
    """A network of shapes without numbers."""
    with torch.device("meta"):
        return NETWORKS[name](channels, side, classes)


def outputs(network: nn.Module, kind: type[nn.Module], side: int = 32) -> list[tuple[int, int]]:
    """Channels and height of what each module of the kind gives for a color image, in order."""
    seen: list[tuple[int, int]] = []

    def note(_module: nn.Module, _inputs: object, output: Tensor) -> None:
        seen.append((output.shape[1], output.shape[2]))

    for module in network.modules():
        if isinstance(module, kind):
            module.register_forward_hook(note)
    network(torch.empty(2, 3, side, side, device="meta"))
    return seen


def leaves(network: nn.Module) -> list[str]:
    return [type(one).__name__ for one in network.modules() if not [*one.children()]]


@pytest.mark.parametrize(
    ("name", "channels", "side", "classes", "count"),
    [
        # He et al. 2016, table 6: 0.27M and 0.85M, here with parameter-free shortcuts.
        ("resnet20", 3, 32, 10, 269_722),
        ("resnet56", 3, 32, 10, 853_018),
        # The usual CIFAR variants; listed are ResNet-18 11.174M, -50 23.521M, DenseNet 6.956M.
        ("resnet18", 3, 32, 10, 11_173_962),
        ("resnet50", 3, 32, 10, 23_520_842),
        ("resnet101", 3, 32, 10, 42_512_970),
        ("resnext29", 3, 32, 10, 27_104_586),
        ("vgg11", 3, 32, 10, 9_231_114),
        ("densenet121", 3, 32, 10, 6_956_298),
        # Eight convolutions with biases; 512 to 512 with a normalization; 512 to 10.
        ("vgga", 3, 32, 10, 9_220_480 + 512 * 513 + 2 * 512 + 513 * 10),
        ("mlp", 1, 8, 10, 65 * 256 + 257 * 256 + 257 * 10),
        ("mlp-yaleb", 1, 32, 38, 1025 * 128 + 129 * 64 + 65 * 48 + 49 * 48 + 49 * 38),
        ("mlp-svhn", 1, 32, 10, 1025 * 128 + 4 * 129 * 128 + 129 * 10),
        ("cnn", 1, 8, 10, 32 * 9 + 32 + 64 * 32 * 9 + 64 + 64 * 4 * 10 + 10),
        # The tutorial's, as Keras counts it: one sigmoid output, 300x300 pixels.
        ("horses", 3, 300, 1, 448 + 4_640 + 18_496 + 35 * 35 * 64 * 512 + 512 + 513),
    ],
)
def test_parameter_counts(name: str, channels: int, side: int, classes: int, count: int) -> None:
    network = outline(name, channels, side, classes)
    assert sum(parameter.numel() for parameter in network.parameters()) == count


@pytest.mark.parametrize(
    ("name", "around"),
    [
        # With convolutions in the place of pooling, as the CWN paper has it for CIFAR.
        ("googlenet", [(3, 64, 3), (64, 192, 3), (576, 576, 2), (1024, 1024, 2)]),
        ("googlenet-imagenet", [(3, 64, 7), (64, 64, 1), (64, 192, 3)]),
    ],
)
def test_googlenet_sizes_are_those_published(name: str, around: list[tuple[int, int, int]]) -> None:
    """Ioffe and Szegedy 2015, Figure 5: outputs of #1x1, 3x3 and double 3x3 paths, pool."""
    rows = [
        (192, 64, 64, 64, 64, 96, 32), (256, 64, 64, 96, 64, 96, 64), (320, 0, 128, 160, 64, 96, 0),
        (576, 224, 64, 96, 96, 128, 128), (576, 192, 96, 128, 96, 128, 128),
        (576, 160, 128, 160, 128, 160, 96), (576, 96, 128, 192, 160, 192, 96),
        (576, 0, 128, 192, 192, 256, 0),
        (1024, 352, 192, 320, 160, 224, 128), (1024, 352, 192, 320, 192, 224, 128),
    ]  # fmt: skip
    convolutions = [*around]
    for inputs, one, reduced, three, narrowed, double, pooled in rows:
        convolutions += [
            (inputs, one, 1), (inputs, reduced, 1), (reduced, three, 3), (inputs, narrowed, 1),
            (narrowed, double, 3), (double, double, 3), (inputs, pooled, 1),
        ]  # fmt: skip
    count = sum(n * m * k * k + 2 * m for n, m, k in convolutions) + 1025 * 100
    network = outline(name, side=64, classes=100)
    assert sum(parameter.numel() for parameter in network.parameters()) == count


def test_googlenet_imagenet_halves_where_published() -> None:
    """Ioffe and Szegedy 2015, Figure 5."""
    network = outline("googlenet-imagenet", side=224, classes=1000)
    assert outputs(network, nn.MaxPool2d, 224)[:2] == [(64, 56), (192, 28)]
    assert outputs(network, Inception, 224) == (
        [(256, 28), (320, 28)] + [(576, 14)] * 5 + [(1024, 7)] * 3
    )


@pytest.mark.parametrize(
    ("name", "kind", "expected"),
    [
        ("resnet20", BasicBlock, [(16, 32)] * 3 + [(32, 16)] * 3 + [(64, 8)] * 3),
        ("resnet56", BasicBlock, [(16, 32)] * 9 + [(32, 16)] * 9 + [(64, 8)] * 9),
        (
            "resnet18",
            BasicBlock,
            [(64, 32)] * 2 + [(128, 16)] * 2 + [(256, 8)] * 2 + [(512, 4)] * 2,
        ),
        (
            "resnet50",
            Bottleneck,
            [(256, 32)] * 3 + [(512, 16)] * 4 + [(1024, 8)] * 6 + [(2048, 4)] * 3,
        ),
        (
            "resnet101",
            Bottleneck,
            [(256, 32)] * 3 + [(512, 16)] * 4 + [(1024, 8)] * 23 + [(2048, 4)] * 3,
        ),
        ("resnext29", Bottleneck, [(512, 32)] * 3 + [(1024, 16)] * 3 + [(2048, 8)] * 3),
        *(
            (
                name,
                nn.Conv2d,
                [(64, 32), (128, 16), *[(256, 8)] * 2, *[(512, 4)] * 2, *[(512, 2)] * 2],
            )
            for name in ("vgg11", "vgga")
        ),
        (
            "densenet121",
            DenseLayer,
            [(64 + 32 * layer, 32) for layer in range(1, 7)]
            + [(128 + 32 * layer, 16) for layer in range(1, 13)]
            + [(256 + 32 * layer, 8) for layer in range(1, 25)]
            + [(512 + 32 * layer, 4) for layer in range(1, 17)],
        ),
        (
            "googlenet",
            Inception,
            [(256, 28), (320, 28), (576, 28)]
            + [(576, 14)] * 4
            + [(1024, 14), (1024, 7), (1024, 7)],
        ),
    ],
)
def test_what_each_block_gives_on_cifar(
    name: str, kind: type[nn.Module], expected: list[tuple[int, int]]
) -> None:
    assert outputs(outline(name), kind) == expected


@pytest.mark.parametrize(
    ("name", "layers"),
    [
        ("resnet20", 20), ("resnet56", 56), ("resnet18", 18), ("resnet50", 50),
        ("resnet101", 101), ("resnext29", 29), ("densenet121", 121), ("mlp-svhn", 6),
    ],
)  # fmt: skip
def test_layers_are_as_many_as_the_name_says(name: str, layers: int) -> None:
    weighted = [
        one for one, module in outline(name).named_modules()
        if isinstance(module, nn.Conv2d | nn.Linear) and "shortcut" not in one
    ]  # fmt: skip
    assert len(weighted) == layers


def test_bottleneck_stride_and_resnext_groups() -> None:
    for name, groups, stem in (("resnet50", 1, 3), ("resnext29", 4, 1)):
        network = outline(name)
        blocks = [module for module in network.modules() if isinstance(module, Bottleneck)]
        for block in blocks:
            assert block.conv1.stride == block.conv3.stride == (1, 1)
            assert block.conv2.groups == groups
            assert block.conv2.kernel_size == (3, 3)
        assert sum(block.conv2.stride == (2, 2) for block in blocks) == (3 if groups == 1 else 2)
        first = next(one for one in network.modules() if isinstance(one, nn.Conv2d))
        assert first.kernel_size == (stem, stem)


def test_where_normalization_is() -> None:
    assert leaves(outline("vgg11"))[:3] == ["Conv2d", "BatchNorm2d", "ReLU"]
    end = ["Linear", "BatchNorm1d", "ReLU", "Linear"]
    assert leaves(outline("vgga"))[-4:] == end
    assert not any(isinstance(one, nn.BatchNorm2d) for one in outline("vgga").modules())
    google = leaves(outline("googlenet"))
    assert google.count("Conv2d") == 2 + 2 + 10 * 7 - 2 * 2  # two modules lack two paths' 1x1
    for after in range(len(google)):
        if google[after] == "Conv2d":
            assert google[after + 1 : after + 3] == ["BatchNorm2d", "ReLU"]
    dense = leaves(outline("densenet121"))
    assert dense[0] == "Conv2d"
    assert all(
        dense[place - 2 : place] == ["BatchNorm2d", "ReLU"]
        for place, kind in enumerate(dense)
        if kind == "Conv2d" and place > 0
    )


def test_mlp_normalization_precedes_the_nonlinearity() -> None:
    network = build("mlp-svhn", 1, 8, 10, seed=0)
    prepare_network(network, presets.method("norm=batch"))
    assert leaves(network) == ["Flatten", *["Linear", "BatchNorm1d", "ReLU"] * 5, "Linear"]


@pytest.mark.parametrize(
    ("name", "side"),
    [
        (name, side)
        for name, side in itertools.product(NETWORKS, [8, 13, 28])
        if side >= LEAST.get(name, 1)
    ],
)
def test_any_square_size_gives_one_output_a_class(name: str, side: int) -> None:
    network = outline(name, 1, side, 7)
    assert network(torch.empty(2, 1, side, side, device="meta")).shape == (2, 7)


@pytest.mark.parametrize("name", NETWORKS)
def test_every_parameter_gets_a_gradient(name: str) -> None:
    side = max(8, LEAST.get(name, 1))
    network = build(name, channels=2, side=side, classes=3, seed=0)
    # Where one pixel is left of an image, fewer would leave a unit dead on both.
    F.cross_entropy(network(torch.randn(6, 2, side, side)), torch.tensor([0, 1, 2] * 2)).backward()
    for parameter in network.parameters():
        assert parameter.grad is not None
        assert parameter.grad.isfinite().all()
    weights = [p for p in network.parameters() if p.ndim > 1]
    assert all(weight.grad.any() for weight in weights if weight.grad is not None)


@pytest.mark.parametrize("name", NETWORKS)
def test_every_weight_is_described_and_every_layer_centered(name: str) -> None:
    network = outline(name)
    rows = {row.name: row for row in zeromean.explain(network)}
    assert not [row.name for row in rows.values() if "no rule" in row.reason]
    layers = {
        f"{one}.weight": module
        for one, module in network.named_modules()
        if isinstance(module, nn.Conv2d | nn.Linear)
    }
    assert {one for one, row in rows.items() if row.centered} == set(layers)
    assert all(
        rows[one].role == ("conv" if isinstance(module, nn.Conv2d) else "linear")
        for one, module in layers.items()
    )


@pytest.mark.parametrize("name", LEAST)
def test_images_that_a_network_would_use_up_are_refused(name: str) -> None:
    least = LEAST[name]
    outline(name, side=least)(torch.empty(2, 3, least, least, device="meta"))
    with pytest.raises(
        ZeromeanError,
        match=f"at least {least}x{least} pixels, but these are {least - 1}x{least - 1}",
    ):
        outline(name, side=least - 1)


def test_convolutions_of_deep_networks_start_as_he_has_them() -> None:
    for name in ("vgga", "resnet56", "googlenet"):
        network = build(name, 3, 32, 10, seed=0)
        for module in network.modules():
            if isinstance(module, nn.Conv2d) and module.weight.numel() > 30_000:
                fan_out = module.out_channels * module.kernel_size[0] ** 2
                wanted = (2 / fan_out) ** 0.5
                assert module.weight.std().item() == pytest.approx(wanted, rel=0.03)
                assert module.bias is None or not module.bias.any()


@pytest.mark.parametrize("name", ["resnet18", "resnext29", "vgg11", "densenet121"])
def test_gc_authors_networks_have_torch_initialization(name: str) -> None:
    network = build(name, 3, 32, 10, seed=0)
    for module in network.modules():
        if isinstance(module, nn.Conv2d) and module.weight.numel() > 50_000:
            wanted = (1 / (3 * module.weight[0].numel())) ** 0.5
            assert module.weight.std().item() == pytest.approx(wanted, rel=0.03)


def test_padded_shortcut_subsamples_and_appends_zeros() -> None:
    x = torch.arange(16.0).reshape(1, 1, 4, 4)
    out = PaddedShortcut(extra=2, stride=2)(x)
    assert out.shape == (1, 3, 2, 2)
    assert out[0, 0].tolist() == [[0, 2], [8, 10]]
    assert not out[0, 1:].any()


def test_the_network_for_horses_is_the_tutorials() -> None:
    network = outline("horses", 3, 300, 2)
    tail = ["Flatten", "Dropout", "Linear", "ReLU", "Linear"]
    first, second = ["Conv2d", "ReLU", "MaxPool2d"], ["Conv2d", "ReLU", "Dropout", "MaxPool2d"]
    assert leaves(network) == [*first, *second, *second, *tail]
    assert {one.p for one in network.modules() if isinstance(one, nn.Dropout)} == {0.5}
    assert outputs(network, nn.MaxPool2d, side=300) == [(16, 149), (32, 73), (64, 35)]


def test_horses_starts_as_keras_does() -> None:
    network = build("horses", 3, 30, 2, seed=0)
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear) and module.weight.numel() > 4000:
            kernel = module.weight[0, 0].numel()
            fans = kernel * (module.weight.shape[0] + module.weight.shape[1])
            assert module.weight.abs().max().item() == pytest.approx((6 / fans) ** 0.5, rel=0.01)
            assert module.weight.std().item() == pytest.approx((2 / fans) ** 0.5, rel=0.03)
    assert not any(p.any() for name, p in network.named_parameters() if name.endswith("bias"))


def test_initial_weights_come_from_the_seed_alone() -> None:
    before = torch.get_rng_state()
    first = build("cnn", 1, 8, 10, seed=1).state_dict()
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(5)
    again, other = (build("cnn", 1, 8, 10, seed=seed).state_dict() for seed in (1, 2))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not any(torch.equal(first[name], other[name]) for name in first)


@pytest.mark.parametrize("name", TEXT_NETWORKS)
def test_text_networks_are_causal(name: str) -> None:
    network = TEXT_NETWORKS[name](11).eval()
    characters = torch.randint(11, (2, 9))
    outputs = network(characters)
    assert outputs.shape == (2, 11, 9)
    changed = characters.clone()
    changed[:, 5] = (changed[:, 5] + 1) % 11
    moved = (network(changed) - outputs).abs().amax((0, 1)) > 0
    assert moved.tolist() == [False] * 5 + [True] * 4


@pytest.mark.parametrize("name", TEXT_NETWORKS)
def test_every_parameter_of_a_text_network_gets_a_gradient(name: str) -> None:
    network = TEXT_NETWORKS[name](11)
    F.cross_entropy(network(torch.randint(11, (2, 9))), torch.randint(11, (2, 9))).backward()
    assert all(one.grad is not None and one.grad.any() for one in network.parameters())


def test_the_sizes_of_the_text_networks() -> None:
    # 4 gates of 128 units, from 64 and 128 inputs, with two biases; embedding; head.
    lstm = 4 * 128 * (64 + 128 + 2) + 11 * 64 + 128 * 11 + 11
    assert sum(p.numel() for p in LSTM(11).parameters()) == lstm
    block = 2 * 2 * 64 + (64 + 1) * 192 + (64 + 1) * 64 + (64 + 1) * 256 + (256 + 1) * 64
    transformer = 11 * 64 + 256 * 64 + 2 * block + 2 * 64 + (64 + 1) * 11
    assert sum(p.numel() for p in Transformer(11).parameters()) == transformer


@pytest.mark.parametrize("name", ["mlp-yaleb", "mlp-svhn"])
def test_cwn_perceptrons_start_from_lecun_initialization(name: str) -> None:
    network = build(name, 1, 32, 10, seed=0)
    first = next(one for one in network.modules() if isinstance(one, nn.Linear))
    assert first.weight.std().item() == pytest.approx(1024**-0.5, rel=0.02)
    assert not first.bias.any()
