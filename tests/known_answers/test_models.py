"""Architectures against published counts and weights; the data sets against their files."""

from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d
from torchvision.models import get_model

from gifthorse.core.errors import RequestError
from gifthorse.core.images import Images, to_floats, to_levels
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


def test_the_mnist_network_has_the_sizes_of_pytorchs_example_and_the_papers_layers() -> None:
    model = ARCHITECTURES.build("cnn_mnist")
    assert model.count_parameters((1, 28, 28), 10) == 1_199_882
    assert layers(model.build((1, 28, 28), 10, 0)) == (2, 2, 2)


def test_the_celeba_network_has_the_papers_layers() -> None:
    assert layers(ARCHITECTURES.build("cnn_celeba[width=2]").build((3, 64, 64), 8, 0)) == (3, 5, 5)


def layers(model: nn.Module) -> tuple[int, int, int]:
    """How many convolutions, linear layers and dropouts there are."""
    kinds = (nn.Conv2d, nn.Linear, nn.Dropout)
    convolutions, linear, dropouts = (sum(isinstance(m, kind) for m in model.modules()) for kind in kinds)
    return convolutions, linear, dropouts


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
    ("request_", "different"),
    [
        ("resnet18", ["conv1.weight"]),
        ("resnet50", ["conv1.weight"]),
        ("densenet121", ["features.conv0.weight"]),
    ],
)
def test_for_small_images_only_the_stem_differs_from_torchvisions(request_: str, different: list[str]) -> None:
    with torch.device("meta"):
        ours = ARCHITECTURES.build(request_).build((3, 32, 32), 1000, 0).network.state_dict()
        theirs = get_model(request_, weights=None).state_dict()
    assert set(ours) == set(theirs)
    assert [name for name in ours if ours[name].shape != theirs[name].shape] == different


def test_a_wide_residual_block_by_hand() -> None:
    """The shortcut of a block that changes the shape takes the activated input; the others pass it as it is."""
    torch.manual_seed(0)
    maps = torch.randn(2, 4, 8, 6)
    for after, stride in ((8, 2), (4, 1)):
        block = PreActivationBlock(4, after, stride).eval()
        scale = (1 + 1e-5) ** 0.5  # fresh statistics: mean 0, variance 1
        active = (maps / scale).relu()
        inner = (conv2d(active, block.conv1.weight, stride=stride, padding=1) / scale).relu()
        change = conv2d(inner, block.conv2.weight, padding=1)
        passed = maps if block.shortcut is None else conv2d(active, block.shortcut.weight, stride=stride)
        torch.testing.assert_close(block(maps), change + passed)
        assert (block.shortcut is None) == (stride == 1)


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
    real_data: Path, name: str, shape: tuple[int, int, int], train: int, mean: float
) -> None:
    splits = DATASETS.build(name).load(real_data)
    assert splits.train.shape == shape
    assert len(splits.train) + len(splits.holdout) == train
    assert len(splits.test) == 10_000
    everything = splits.train.join(splits.holdout).pixels
    assert everything.float().mean().item() == pytest.approx(mean, abs=0.1)
    assert len(splits.class_names) == 10
