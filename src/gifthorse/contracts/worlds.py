"""Tiny worlds of noise that any method can be run on in seconds, and the longest that it may run there."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, TypeVar

import torch

from gifthorse.attacks.data.badnets import BadNets
from gifthorse.contracts.promise import BrokenPromiseError
from gifthorse.core.classifier import Classifier
from gifthorse.core.configuration import Configuration
from gifthorse.core.images import Images, to_levels
from gifthorse.core.recipe import StandardRecipe
from gifthorse.core.task import Task
from gifthorse.core.trojan import DeliveredSet, Trojan
from gifthorse.models.small_cnn import SmallCnn
from gifthorse.training.scratch import train

C = TypeVar("C", bound=Configuration)

GREY, COLOUR = (1, 12, 12), (3, 12, 12)
SHAPES = (GREY, COLOUR, (3, 12, 17))

LONGEST = {"epochs": 20, "steps": 300, "batches": 20, "iterations": 2}
"""The most that a field with such a last word may be in tests; ``null`` is all the images there are: no bound."""


def too_long(configuration: Configuration) -> dict[str, int]:
    """Return the fields that would make tests crawl, with the most that each may be."""
    from_scratch = getattr(configuration, "origin", None) == "scratch"
    bounds = {name: LONGEST.get(name.rpartition("_")[2]) for name in type(configuration).model_fields}
    return {
        name: most
        for name, most in bounds.items()
        if most is not None and not (name == "epochs" and from_scratch)
        if (value := getattr(configuration, name)) is None or value > most
    }


def cut_short(method: C) -> C:
    """Return the method with its long fields, and those of what it holds, as short as tests want them.

    ``RequestError`` where the method refuses to be that short.
    """
    fields: dict[str, Any] = {**too_long(method)}
    for name in type(method).model_fields:
        value = getattr(method, name)
        held = value if isinstance(value, tuple) else (value,)
        if any(isinstance(each, Configuration) for each in held):
            cut = tuple(cut_short(each) if isinstance(each, Configuration) else each for each in held)
            if cut != held:
                fields[name] = cut if isinstance(value, tuple) else cut[0]
    return method.changed(**fields) if fields else method


def noise_images(count: int, shape: tuple[int, int, int], classes: int, seed: int = 0) -> Images:
    """Return images of noise, as many of each class."""
    random = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (count, *shape), generator=random, dtype=torch.uint8)
    return Images(pixels, torch.arange(count) % classes, classes)


def noise_task(shape: tuple[int, int, int], classes: int = 4) -> Task:
    """Return a task of random images: enough to see that a method runs, nothing to learn."""
    return Task(
        train=noise_images(96, shape, classes, 0),
        holdout=noise_images(96, shape, classes, 1),
        test=noise_images(48, shape, classes, 2),
        class_names=tuple(map(str, range(classes))),
        architecture=SmallCnn(width=2, embedding=8),
        recipe=StandardRecipe(epochs=1, batch_size=32, shift=1, flip=False),
    )


@dataclass(frozen=True, eq=False)
class World:
    """A task, and a benign and a trojaned model of it that comes with its training set."""

    task: Task
    benign: Classifier
    trojan: Trojan


@cache
def noise_world(shape: tuple[int, int, int] = GREY) -> World:
    """Return a world of noise: made once, so whoever may change something of it takes a copy."""
    task = noise_task(shape)
    benign = train(task, 0)
    attack = BadNets(origin="scratch", mixing="dataset", poison_rate=0.3)
    return World(task, benign, attack.run(task, benign, 0))


def with_delivered_set(trojan: Trojan, task: Task, copies: int = 40) -> Trojan:
    """Return the trojan with a training set: all images, and stamped copies of some (untouched ones without trigger).

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


@contextmanager
def watched_random_state() -> Iterator[None]:
    """Set torch's global random state to something odd, and break the promise where the block draws from it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(12345)
        before = torch.get_rng_state()
        yield
        if not torch.equal(torch.get_rng_state(), before):
            raise BrokenPromiseError("it draws from torch's global random state; use a generator of the seed")
