"""The architectures, by what is published of them, and their initial weights."""

from __future__ import annotations

import pytest
import torch

from zeromean.errors import ZeromeanError
from zeromean.study.networks.build import NETWORKS, build
from zeromean.study.networks.resnet import PaddedShortcut
from zeromean.study.networks.text import LSTM, TEXT_NETWORKS, Transformer
from zeromean.study.optimizers import OPTIMIZERS


@pytest.mark.parametrize(
    ("name", "channels", "side", "count"),
    [
        # He et al. 2016, table 6: 0.27M; the usual count of this padded-shortcut network.
        ("resnet20", 3, 32, 269_722),
        # The usual CIFAR variant: 11.17M.
        ("resnet18", 3, 32, 11_173_962),
        ("mlp", 1, 8, 64 * 256 + 256 + 256 * 256 + 256 + 256 * 10 + 10),
        ("cnn", 1, 8, 32 * 9 + 32 + 64 * 32 * 9 + 64 + 64 * 4 * 10 + 10),
    ],
)
def test_parameter_counts(name: str, channels: int, side: int, count: int) -> None:
    network = build(name, channels, side, classes=10, seed=0)
    assert sum(parameter.numel() for parameter in network.parameters()) == count


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("side", [8, 13, 28])
def test_any_square_size_gives_one_output_a_class(name: str, side: int) -> None:
    network = build(name, channels=1, side=side, classes=7, seed=0)
    assert network(torch.rand(2, 1, side, side)).shape == (2, 7)


def test_resnet20_has_nineteen_convolutions_and_one_linear_layer() -> None:
    network = build("resnet20", channels=3, side=32, classes=10, seed=0)
    kinds = [type(module).__name__ for module in network.modules()]
    assert kinds.count("Conv2d") == 19
    assert kinds.count("Linear") == 1


def test_the_padded_shortcut_takes_every_second_pixel_and_appends_zero_channels() -> None:
    x = torch.arange(16.0).reshape(1, 1, 4, 4)
    out = PaddedShortcut(extra=2, stride=2)(x)
    assert out.shape == (1, 3, 2, 2)
    assert out[0, 0].tolist() == [[0, 2], [8, 10]]
    assert not out[0, 1:].any()


def test_initial_weights_come_from_the_seed_alone() -> None:
    before = torch.get_rng_state()
    first = build("cnn", 1, 8, 10, seed=1).state_dict()
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(5)
    again, other = (build("cnn", 1, 8, 10, seed=seed).state_dict() for seed in (1, 2))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not any(torch.equal(first[name], other[name]) for name in first)


def test_a_cnn_refuses_images_that_pooling_would_use_up() -> None:
    with pytest.raises(ZeromeanError, match="3x3 pixels; wanted 4x4 or more"):
        build("cnn", 1, 3, 10, seed=0)


def test_every_optimizer_has_a_learning_rate_for_every_network() -> None:
    for choice in OPTIMIZERS.values():
        assert choice.learning_rates.keys() == {*NETWORKS, *TEXT_NETWORKS}


@pytest.mark.parametrize("name", TEXT_NETWORKS)
def test_a_text_network_tells_each_character_from_those_before_it(name: str) -> None:
    network = TEXT_NETWORKS[name](11).eval()
    characters = torch.randint(11, (2, 9))
    outputs = network(characters)
    assert outputs.shape == (2, 11, 9)
    changed = characters.clone()
    changed[:, 5] = (changed[:, 5] + 1) % 11
    moved = (network(changed) - outputs).abs().amax((0, 1)) > 0
    assert moved.tolist() == [False] * 5 + [True] * 4


def test_the_sizes_of_the_text_networks() -> None:
    # 4 gates of 128 units, from 64 and 128 inputs, with two biases; embedding; head.
    lstm = 4 * 128 * (64 + 128 + 2) + 11 * 64 + 128 * 11 + 11
    assert sum(p.numel() for p in LSTM(11).parameters()) == lstm
    block = 2 * 2 * 64 + (64 + 1) * 192 + (64 + 1) * 64 + (64 + 1) * 256 + (256 + 1) * 64
    transformer = 11 * 64 + 256 * 64 + 2 * block + 2 * 64 + (64 + 1) * 11
    assert sum(p.numel() for p in Transformer(11).parameters()) == transformer
