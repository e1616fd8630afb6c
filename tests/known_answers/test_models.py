"""Architectures against published counts and their own tensors; the data sets against their files."""

from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import Tensor

from gifthorse.core.errors import RequestError
from gifthorse.core.images import Images, to_floats, to_levels
from gifthorse.core.task import Architecture
from gifthorse.datasets import DATASETS
from gifthorse.models import ARCHITECTURES
from gifthorse.models.resnet import ResNet18
from gifthorse.models.small_cnn import SmallCnn
from worlds import noise_images

every_architecture = pytest.mark.parametrize("cls", ARCHITECTURES.values(), ids=ARCHITECTURES)
SMALL: dict[str, Architecture] = {"small_cnn": SmallCnn(width=4), "resnet18": ResNet18(width=4)}


def test_resnet18_has_the_published_number_of_parameters() -> None:
    model = ResNet18().build((3, 32, 32), 10, 0)
    assert sum(parameter.numel() for parameter in model.parameters()) == 11_173_962


def test_resnet18s_weights_have_torchvisions_names() -> None:
    from torchvision.models import resnet18

    ours = ResNet18().build((3, 32, 32), 1000, 0).network.state_dict()
    theirs = resnet18().state_dict()
    assert set(ours) == set(theirs)
    assert [name for name in ours if ours[name].shape != theirs[name].shape] == ["conv1.weight"]


@every_architecture
@pytest.mark.parametrize("shape", [(1, 16, 16), (3, 32, 32), (3, 20, 28)])
def test_features_are_what_the_head_receives(cls: type[Architecture], shape: tuple[int, int, int]) -> None:
    model = SMALL[cls.name].build(shape, 7, 0).eval()
    pixels = noise_images(5, shape, 7).floats()
    features = model.features(pixels)
    assert features.shape == (5, model.head.in_features)
    assert torch.equal(model.head(features), model(pixels))
    assert model.classes == 7


@every_architecture
def test_stages_are_in_order_and_give_maps(cls: type[Architecture]) -> None:
    model = SMALL[cls.name].build((3, 32, 32), 7, 0).eval()
    pixels = noise_images(2, (3, 32, 32), 7).floats()
    sizes = [model.stage(name, pixels).shape for name in model.stage_names]
    assert len(sizes) >= 3
    assert all(before[2] >= after[2] and before[1] <= after[1] for before, after in pairwise(sizes))
    assert not [module for module in model.modules() if module._forward_hooks]


@every_architecture
def test_the_seed_alone_decides_the_weights(cls: type[Architecture]) -> None:
    def weights(seed: int) -> Tensor:
        torch.manual_seed(seed + 100)
        return torch.cat([p.flatten() for p in SMALL[cls.name].build((1, 16, 16), 4, seed).parameters()])

    assert torch.equal(weights(0), weights(0))
    assert not torch.equal(weights(0), weights(1))


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
