"""Small worlds for tests: real digits, noise of any shape, and models whose answer is known."""

from pathlib import Path

import torch
from torch import Tensor, nn

from gifthorse.bench.cell import resolve
from gifthorse.core.classifier import Classifier
from gifthorse.core.images import Images
from gifthorse.core.recipe import StandardRecipe
from gifthorse.core.task import Task
from gifthorse.core.views import ModelView
from gifthorse.models.small_cnn import SmallCnn


def digits_task(profile: str = "smoke") -> Task:
    cell = resolve(dataset="digits", profile=profile)
    splits = cell.dataset.load(Path("unused"))
    return Task(**vars(splits), architecture=cell.model, recipe=cell.training)


def noise_images(count: int, shape: tuple[int, int, int], classes: int, seed: int = 0) -> Images:
    random = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (count, *shape), generator=random, dtype=torch.uint8)
    return Images(pixels, torch.arange(count) % classes, classes)


def noise_task(shape: tuple[int, int, int], classes: int = 4) -> Task:
    """A task of random images: enough to see that a method runs, nothing to learn."""
    return Task(
        train=noise_images(96, shape, classes, 0),
        holdout=noise_images(64, shape, classes, 1),
        test=noise_images(48, shape, classes, 2),
        class_names=tuple(map(str, range(classes))),
        architecture=SmallCnn(width=2, embedding=8),
        recipe=StandardRecipe(epochs=1, batch_size=32, shift=1, flip=False),
    )


def linear_classifier(weight: Tensor, bias: Tensor) -> Classifier:
    """A classifier that is a linear map of the pixels: ``weight (K, C, H, W)``, ``bias (K,)``."""
    classes, channels = weight.shape[:2]
    head = nn.Linear(weight[0].numel(), classes)
    with torch.no_grad():
        head.weight.copy_(weight.flatten(1))
        head.bias.copy_(bias)
    network = nn.Sequential(nn.Flatten(), head)
    return Classifier(network, mean=[0.0] * channels, std=[1.0] * channels, head="1", stages=()).eval()


def live_pixel_view(target: int, row: int, column: int, classes: int = 6, side: int = 8) -> ModelView:
    """A linear model whose class ``target`` needs one white pixel, and every other class most of a row.

    Each class sums the light of its own row; an image is of the class whose row is lit. One pixel outside these rows
    has so large a weight for the target that it decides alone; it is black in every clean image.
    """
    weight = torch.zeros(classes, 1, side, side)
    for label in range(classes):
        weight[label, 0, label] = 3.0
    weight[target, 0, row, column] = 60.0
    random = torch.Generator().manual_seed(0)
    labels = torch.arange(240) % classes
    pixels = torch.randint(0, 60, (240, 1, side, side), generator=random, dtype=torch.uint8)
    pixels[torch.arange(240), 0, labels] += 150
    pixels[:, :, row, column] = 0
    return ModelView(linear_classifier(weight, torch.zeros(classes)), Images(pixels, labels, classes))
