"""How the view of a defender is cut out of the truth: one builder per type of view."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from gifthorse.core.defense import Defense
from gifthorse.core.errors import RequestError
from gifthorse.core.images import Images
from gifthorse.core.task import Task
from gifthorse.core.trojan import Trojan
from gifthorse.core.views import (
    DataFreeView,
    KnownClassView,
    Materials,
    ModelView,
    SuspectAndCleanView,
    SuspectDataView,
)
from gifthorse.training.scratch import FromScratch

NOTHING_DELIVERED = "the attack delivered a model alone: there is no training set to look at"

Builder = Callable[[Trojan, Task], DataFreeView | str]
"""Returns a view that shares no memory with the truth, or one sentence saying why there is none."""


def view_of(defense: Defense[Any], trojan: Trojan, task: Task) -> DataFreeView | str:
    """Return what a defender sees of a trojan, or one sentence saying why there is nothing to see."""
    return builder_of(defense.sees())(trojan, granted(defense, task))


def materials_of(defense: Defense[Any], task: Task) -> Materials:
    """Return what a defender has before it is given a model."""
    return materials_for(defense.sees(), granted(defense, task))


def granted(defense: Defense[Any], task: Task) -> Task:
    """Return the task with as many clean images as the defender has; :class:`RequestError` where there are fewer."""
    count = defense.clean_images(len(task.train))
    if count is None:
        return task
    if count > len(task.holdout):
        held = len(task.holdout)
        raise RequestError(f"{defense.name} is to have {count} clean images; the data set holds out {held}")
    return replace(task, holdout=task.holdout.take(slice(count)))


def builder_of(view: type[DataFreeView]) -> Builder:
    """Return how views of a type are built; :class:`RequestError` where nobody has said so."""
    if view not in VIEWS:
        known = ", ".join(each.__name__ for each in VIEWS)
        raise RequestError(f"gifthorse.bench.views.VIEWS does not say how a {view.__name__} is built; it has {known}")
    return VIEWS[view]


def materials_for(view: type[DataFreeView], task: Task) -> Materials:
    """Return what a defender of this kind has before it is given a model."""
    clean = task.holdout if "holdout" in view.holds else task.holdout.take(slice(0))
    return Materials(copied(clean), trainer(task))


def data_free(trojan: Trojan, task: Task) -> DataFreeView:
    """Return the model alone."""
    return DataFreeView(trojan.model, shape=task.train.shape, trainer=trainer(task))


def with_clean_images(trojan: Trojan, task: Task) -> ModelView:
    """Return the model with the defender's clean images."""
    return ModelView(trojan.model, copied(task.holdout), trainer=trainer(task))


def with_training_set(trojan: Trojan, task: Task) -> SuspectDataView | str:
    """Return the model with the training set that was delivered; not every attack delivers one."""
    if trojan.delivered is None:
        return NOTHING_DELIVERED
    return SuspectDataView(trojan.model, trojan.delivered.images(task.train), trainer=trainer(task))


def with_both(trojan: Trojan, task: Task) -> SuspectAndCleanView | str:
    """Return the model with the training set that was delivered and the defender's clean images."""
    if trojan.delivered is None:
        return NOTHING_DELIVERED
    clean, suspect = copied(task.holdout), trojan.delivered.images(task.train)
    return SuspectAndCleanView(trojan.model, clean, suspect, trainer=trainer(task))


def with_known_class(trojan: Trojan, task: Task) -> KnownClassView | str:
    """Return the model with the defender's clean images and the classes that the backdoor leads to."""
    if trojan.backdoor is None:
        return "no class is attacked: there is none to be known"
    known = tuple(trojan.backdoor.goal.classes())
    return KnownClassView(trojan.model, copied(task.holdout), known, trainer=trainer(task))


def trainer(task: Task) -> FromScratch:
    """Return how models of the task are trained, without its images."""
    return FromScratch(task.architecture, task.recipe)


def copied(images: Images) -> Images:
    """Return the same images in memory of their own."""
    return Images(images.pixels.clone(), images.labels.clone(), images.classes)


VIEWS: dict[type[DataFreeView], Builder] = {
    DataFreeView: data_free,
    ModelView: with_clean_images,
    SuspectDataView: with_training_set,
    SuspectAndCleanView: with_both,
    KnownClassView: with_known_class,
}
"""Every type of view that a defense can ask for. Another is one line, from anywhere: ``VIEWS[MyView] = my_builder``."""
