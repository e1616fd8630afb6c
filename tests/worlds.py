"""Small worlds for tests: real digits, noise of any shape, and models whose answer is known."""

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn

from gifthorse.bench.cell import resolve
from gifthorse.contracts.worlds import World, too_long
from gifthorse.contracts.worlds import noise_images as noise_images
from gifthorse.contracts.worlds import noise_task as noise_task
from gifthorse.contracts.worlds import with_delivered_set as with_delivered_set
from gifthorse.core.classifier import Classifier, predict
from gifthorse.core.configuration import Configuration
from gifthorse.core.images import Images
from gifthorse.core.outcomes import ModelVerdict
from gifthorse.core.task import Task
from gifthorse.core.trojan import Trojan
from gifthorse.core.views import ModelView
from gifthorse.training.scratch import train

C = TypeVar("C", bound=Configuration)


def requests(listed: Mapping[str, type[Configuration]]) -> list[str]:
    """The name of every listed class, and the variants that it declares: what contracts run over."""
    return [request for cls in listed.values() for request in (cls.name, *cls.variants)]


def affordable(method: C) -> C:
    """The same method; an error at once where it would run for minutes, as one without a smoke setting does."""
    for each in method.walk():
        for name, most in too_long(each).items():
            value, section = getattr(each, name), f"[all.{each.catalogue}.{each.name}]"
            raise AssertionError(
                f"{each.name}: {name}={'null' if value is None else value} is too long for tests (at most {most}): "
                f"set it in src/gifthorse/profiles/smoke.toml, {section}"
            )
    return method


def digits_task(profile: str = "smoke") -> Task:
    cell = resolve(dataset="digits", profile=profile)
    splits = cell.dataset.load(Path("unused"))
    return Task(**vars(splits), architecture=cell.model, recipe=cell.training)


@cache
def digits_world() -> World:
    """Digits, a benign model of them and BadNets in another, as the smoke profile has them; made once per process."""
    task = digits_task()
    benign = train(task, 0)
    return World(task, benign, resolve(dataset="digits", attack="badnets", profile="smoke").attack.run(task, benign, 0))


def scores_of(verdict: ModelVerdict) -> Tensor:
    assert verdict.scores is not None
    return verdict.scores


def rates(model: nn.Module, task: Task, trojan: Trojan) -> tuple[float, float]:
    """Accuracy, and the success of the backdoor."""
    assert trojan.backdoor is not None
    pixels, labels = task.test.floats(), task.test.labels
    others = trojan.backdoor.goal.sources(labels).nonzero().squeeze(1)
    stamped, targets = trojan.backdoor.stamp(pixels[others], labels[others])
    right = predict(model, pixels).argmax(1) == labels
    return float(right.float().mean()), float((predict(model, stamped).argmax(1) == targets).float().mean())


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
