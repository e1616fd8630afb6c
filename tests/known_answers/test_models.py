"""Architectures against published counts and weights; the data sets against their files."""

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d
from torchvision.models import get_model

from gifthorse.core.errors import RequestError
from gifthorse.core.images import Images, to_floats, to_levels
from gifthorse.core.task import Splits
from gifthorse.datasets import DATASETS
from gifthorse.models import ARCHITECTURES
from gifthorse.models.resnet import ResNet18
from gifthorse.models.wide_resnet import PreActivationBlock


def test_resnet18_has_the_published_number_of_parameters() -> None:
    model = ResNet18().build((3, 32, 32), 10, 0)
    assert sum(parameter.numel() for parameter in model.parameters()) == 11_173_962


@pytest.mark.parametrize(
    ("request_", "count"),
    [
        ("resnet34", 21_282_122),
        ("resnet50", 23_520_842),
        ("vgg13", 9_416_010),
        ("vgg16", 14_728_266),
        ("vgg19", 20_040_522),
        ("wrn_16_1", 175_066),
        ("wrn_40_1", 563_930),
        ("wrn_40_2", 2_243_546),
        ("wrn_40_2[blocks=4,widen=10]", 36_479_194),  # WRN-28-10, the 36.5 million of the paper's Table 4
    ],
)
def test_the_published_number_of_parameters_for_cifar10(request_: str, count: int) -> None:
    assert ARCHITECTURES.build(request_).count_parameters((3, 32, 32), 10) == count


def test_densenet121_for_small_images_differs_from_torchvisions_in_stem_and_head_only() -> None:
    published = 7_978_856
    head, stem = 1024 * 990 + 990, 64 * 3 * (7 * 7 - 3 * 3)
    assert ARCHITECTURES.build("densenet121").count_parameters((3, 32, 32), 10) == published - head - stem


def test_wide_residual_networks_by_arithmetic() -> None:
    """Convolutions 9·a·b (1·a·b in a shortcut), two numbers per normalised channel, the head's a·k + k."""

    def block(before: int, after: int) -> int:
        return 9 * before * after + 9 * after * after + 2 * before + 2 * after + before * after * (before != after)

    for name, blocks, widen in (("wrn_16_1", 2, 1), ("wrn_40_1", 6, 1), ("wrn_40_2", 6, 2)):
        widths = [16, 16 * widen, 32 * widen, 64 * widen]
        expected = 9 * 3 * 16 + 2 * widths[3] + widths[3] * 10 + 10
        for before, after in pairwise(widths):
            expected += block(before, after) + (blocks - 1) * block(after, after)
        assert ARCHITECTURES.build(name).count_parameters() == expected


def layers(model: nn.Module) -> str:
    """The kinds of a network's layers in order, and the rates of its dropouts."""
    leaves = [each for each in model.modules() if not list(each.children())]
    rates = [f" {each.p:g}" if isinstance(each, nn.Dropout) else "" for each in leaves]
    return ", ".join(type(each).__name__ + rate for each, rate in zip(leaves, rates, strict=True))


def test_the_mnist_network_has_the_sizes_of_pytorchs_example_and_the_papers_layers() -> None:
    """Two convolutions and two linear layers with dropout (Dynamic Backdoors, 4.2)."""
    model = ARCHITECTURES.build("cnn_mnist")
    assert model.count_parameters((1, 28, 28), 10) == 1_199_882
    assert layers(model.build((1, 28, 28), 10, 0).network) == (
        "Conv2d, ReLU, Conv2d, ReLU, MaxPool2d, Dropout 0.25, Flatten, Linear, ReLU, Dropout 0.5, Linear"
    )


def test_the_celeba_network_has_the_papers_layers() -> None:
    """Three convolutions and five linear layers with dropout (Dynamic Backdoors, 4.2); sizes and rates are ours."""
    network = ARCHITECTURES.build("cnn_celeba[width=2]").build((3, 64, 64), 8, 0).network
    assert layers(network) == (
        "Conv2d, ReLU, MaxPool2d, " * 3
        + "AdaptiveAvgPool2d, Dropout 0.1, Flatten, "
        + "Linear, ReLU, Dropout 0.2, " * 4
        + "Linear"
    )


@pytest.mark.parametrize(
    ("request_", "theirs"),
    [
        ("resnet18[stem=large]", "resnet18"),
        ("resnet34[stem=large]", "resnet34"),
        ("resnet50[stem=large]", "resnet50"),
        ("vgg13[head=torchvision]", "vgg13_bn"),
        ("vgg16[head=torchvision]", "vgg16_bn"),
        ("vgg19[head=torchvision]", "vgg19_bn"),
        ("densenet121[stem=large]", "densenet121"),
    ],
)
def test_weights_for_large_images_are_torchvisions_name_by_name(request_: str, theirs: str) -> None:
    with torch.device("meta"):
        ours = ARCHITECTURES.build(request_).build((3, 224, 224), 1000, 0).network.state_dict()
        published = get_model(theirs, weights=None).state_dict()
    assert {name: weight.shape for name, weight in ours.items()} == {
        name: weight.shape for name, weight in published.items()
    }


@pytest.mark.parametrize(
    ("request_", "theirs"),
    [
        ("resnet18[stem=large]", "resnet18"),
        ("resnet50[stem=large]", "resnet50"),
        ("densenet121[stem=large]", "densenet121"),
    ],
)
def test_with_torchvisions_weights_the_logits_are_torchvisions(request_: str, theirs: str) -> None:
    network = ARCHITECTURES.build(request_).build((3, 64, 64), 5, 0).network.eval()
    torch.manual_seed(0)
    published = get_model(theirs, weights=None, num_classes=5).eval()
    network.load_state_dict(published.state_dict())
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(network(images), published(images))


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        pytest.param("resnet18", (1, 28, 28), id="resnet18-grey"),
        *(pytest.param(name, (3, 32, 32), id=name) for name in ("resnet18", "resnet34", "resnet50", "densenet121")),
    ],
)
def test_for_small_images_the_logits_are_torchvisions_behind_another_stem(
    name: str, shape: tuple[int, int, int]
) -> None:
    """A 3×3 convolution of stride 1 and no pooling; whatever follows is the published network."""
    network = ARCHITECTURES.build(name).build(shape, 5, 0).network.eval()
    published: Any = get_model(name, weights=None, num_classes=5).eval()
    stem = nn.Conv2d(shape[0], 64, 3, padding=1, bias=False)
    if name == "densenet121":
        published.features.conv0, published.features.pool0 = stem, nn.Identity()
    else:
        published.conv1, published.maxpool = stem, nn.Identity()
    published.load_state_dict(network.state_dict())
    images = torch.randn(2, *shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(network(images), published(images))


@pytest.mark.parametrize("name", ["vgg13", "vgg16", "vgg19"])
def test_for_small_images_a_vggs_logits_are_one_linear_layer_on_torchvisions_features(name: str) -> None:
    network = ARCHITECTURES.build(name).build((3, 32, 32), 5, 0).network.eval()
    with torch.device("meta"):
        published = get_model(f"{name}_bn", weights=None).features.eval().to_empty(device="cpu")
    published.load_state_dict(network.features.state_dict())  # type: ignore[union-attr]
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = network.get_submodule("classifier")(published(images).mean((2, 3)))
        torch.testing.assert_close(network(images), expected)


def block_by_hand(block: PreActivationBlock, maps: Tensor) -> Tensor:
    """The block with fresh statistics, mean 0 and variance 1."""
    scale, stride = (1 + 1e-5) ** 0.5, block.conv1.stride[0]
    active = (maps / scale).relu()
    inner = (conv2d(active, block.conv1.weight, stride=stride, padding=1) / scale).relu()
    change = conv2d(inner, block.conv2.weight, padding=1)
    return change + (maps if block.shortcut is None else conv2d(active, block.shortcut.weight, stride=stride))


def test_a_wide_residual_block_by_hand() -> None:
    """The shortcut of a block that changes the shape takes the activated input; the others pass it as it is."""
    torch.manual_seed(0)
    maps = torch.randn(2, 4, 8, 6)
    for after, stride in ((8, 2), (4, 1)):
        block = PreActivationBlock(4, after, stride).eval()
        assert block(maps).shape == (2, after, 8 // stride, 6 // stride)
        torch.testing.assert_close(block(maps), block_by_hand(block, maps))
        assert (block.shortcut is None) == (stride == 1)


@pytest.mark.parametrize(("name", "widen"), [("wrn_40_1", 1), ("wrn_40_2", 2)])
def test_a_wide_residual_network_is_three_stages_of_six_blocks_between_stem_and_head(name: str, widen: int) -> None:
    """Zagoruyko and Komodakis 2016, Table 1: depth 40 is 6 · 6 + 4, and every stage but the first halves the maps."""
    network: Any = ARCHITECTURES.build(name).build((3, 32, 32), 5, 0).network.eval()
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        maps = conv2d(images, network.conv1.weight, padding=1)
        assert maps.shape == (2, 16, 32, 32)
        for stage, side in ((network.stage1, 32), (network.stage2, 16), (network.stage3, 8)):
            blocks = [each for each in stage if isinstance(each, PreActivationBlock)]
            assert len(blocks) == 6
            for block in blocks:
                maps = block_by_hand(block, maps)
            assert maps.shape == (2, 512 * widen // side, side, side)
        latents = (maps / (1 + 1e-5) ** 0.5).relu().mean((2, 3))
        torch.testing.assert_close(network(images), latents @ network.fc.weight.T + network.fc.bias)


def test_vggs_stages_are_taken_before_each_pooling() -> None:
    model = ARCHITECTURES.build("vgg13[width=2]").build((3, 32, 32), 10, 0).eval()
    pixels = torch.rand(1, 3, 32, 32)
    sizes = [tuple(model.stage(name, pixels).shape[1:]) for name in model.stage_names]
    assert sizes == [(2, 32, 32), (4, 16, 16), (8, 8, 8), (16, 4, 4), (16, 2, 2)]


def test_pixels_survive_the_way_to_floats_and_back() -> None:
    levels = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    assert torch.equal(to_levels(to_floats(levels)), levels)


@pytest.mark.parametrize(
    ("pixels", "labels"),
    [
        (torch.zeros(2, 1, 4, 4), torch.zeros(2, dtype=torch.int64)),
        (torch.zeros(2, 4, 4, dtype=torch.uint8), torch.zeros(2, dtype=torch.int64)),
        (torch.zeros(2, 1, 4, 4, dtype=torch.uint8), torch.zeros(3, dtype=torch.int64)),
        (torch.zeros(2, 1, 4, 4, dtype=torch.uint8), torch.zeros(2)),
        (torch.zeros(2, 1, 4, 4, dtype=torch.uint8), torch.tensor([0, 5])),
    ],
)
def test_images_of_the_wrong_shape_are_refused(pixels: Tensor, labels: Tensor) -> None:
    with pytest.raises(RequestError):
        Images(pixels, labels, 5)


def test_digits_are_real_and_the_same_for_every_run() -> None:
    first, second = (DATASETS.build("digits").load(Path("unused")) for _ in range(2))
    assert torch.equal(first.train.pixels, second.train.pixels)
    assert len(first.train) + len(first.holdout) + len(first.test) == 1797
    assert first.train.pixels.max() == 255


@pytest.mark.parametrize(
    ("name", "shape", "train", "mean"),
    [
        ("mnist", (1, 28, 28), 60_000, 33.3),
        ("fashion_mnist", (1, 28, 28), 60_000, 72.9),
        ("cifar10", (3, 32, 32), 50_000, 120.7),
    ],
)
def test_real_images_are_the_published_ones(
    real_images: Callable[[str], Splits], name: str, shape: tuple[int, int, int], train: int, mean: float
) -> None:
    splits = real_images(name)
    assert splits.train.shape == shape
    assert len(splits.train) + len(splits.holdout) == train
    assert len(splits.test) == 10_000
    everything = splits.train.join(splits.holdout).pixels
    assert everything.float().mean().item() == pytest.approx(mean, abs=0.1)
    assert len(splits.class_names) == 10
    uneven = [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert splits.test.labels.bincount().tolist() == (uneven if name == "mnist" else [1000] * 10)
