"""Small worlds for tests: real digits, noise of any shape, and models whose answer is known."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn

from gifthorse.bench.cell import resolve
from gifthorse.core.classifier import Classifier
from gifthorse.core.configuration import Configuration
from gifthorse.core.images import Images, to_levels
from gifthorse.core.outcomes import ModelVerdict
from gifthorse.core.recipe import StandardRecipe
from gifthorse.core.task import Task
from gifthorse.core.trojan import DeliveredSet, Trojan
from gifthorse.core.views import ModelView
from gifthorse.models.small_cnn import SmallCnn

C = TypeVar("C", bound=Configuration)

LONGEST = {"epochs": 20, "steps": 300, "batches": 20, "iterations": 2}
"""The most that a field with such a last word may be at smoke scale; ``null`` is all the images there are: no bound."""


def requests(listed: Mapping[str, type[Configuration]]) -> list[str]:
    """The name of every listed class, and the variants that it declares: what contracts run over."""
    return [request for cls in listed.values() for request in (cls.name, *cls.variants)]


def affordable(method: C) -> C:
    """The same method; an error at once where it would run for minutes, as one without a smoke setting does."""
    for each in method.walk():
        from_scratch = getattr(each, "origin", None) == "scratch"
        for name, value in each:
            most = LONGEST.get(name.rpartition("_")[2])
            idle = name == "epochs" and from_scratch
            if most is not None and not idle and (value is None or value > most):
                section = f"[all.{each.catalogue}.{each.name}]"
                raise AssertionError(
                    f"{each.name}: {name}={'null' if value is None else value} is too long for tests (at most {most}): "
                    f"set it in src/gifthorse/profiles/smoke.toml, {section}"
                )
    return method


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


def with_delivered_set(trojan: Trojan, task: Task, copies: int = 40) -> Trojan:
    """The trojan with a training set: all images, and stamped copies of some (untouched ones where it has no trigger).

    One that already has a training set keeps it.
    """
    if trojan.delivered is not None:
        return trojan
    clean = torch.arange(len(task.train))
    sources, labels, stamped = clean[:copies], task.train.labels[:copies], torch.arange(copies) < 0
    pixels = task.train.pixels[:0]
    if trojan.backdoor is not None:
        sources = trojan.backdoor.goal.sources(task.train.labels).nonzero().squeeze(1)[:copies]
        shown, labels = trojan.backdoor.stamp(task.train.take(sources).floats(), task.train.labels[sources])
        pixels, stamped = to_levels(shown), torch.arange(copies) >= 0
    order = torch.randperm(len(clean) + copies, generator=torch.Generator().manual_seed(5))
    place = order.argsort()[len(clean) :]
    delivered = DeliveredSet(
        sources=torch.cat([clean, sources])[order],
        labels=torch.cat([task.train.labels, labels])[order],
        stamped=torch.cat([clean < 0, stamped])[order],
        changed=place[: len(pixels)],
        pixels=pixels,
    )
    return replace(trojan, delivered=delivered)


def scores_of(verdict: ModelVerdict) -> Tensor:
    assert verdict.scores is not None
    return verdict.scores


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
