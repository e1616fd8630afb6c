"""How the view of a defender is cut out of the truth: one builder per type of view."""

from collections.abc import Callable

from gifthorse.core.errors import RequestError
from gifthorse.core.images import Images
from gifthorse.core.task import Task
from gifthorse.core.trojan import Trojan
from gifthorse.core.views import DataFreeView, Materials, ModelView, SuspectDataView
from gifthorse.training.scratch import FromScratch

Builder = Callable[[Trojan, Task], DataFreeView | str]
"""Returns a view that shares no memory with the truth, or one sentence saying why there is none."""


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
        return "the attack delivered a model alone: there is no training set to look at"
    return SuspectDataView(trojan.model, trojan.delivered.images(task.train), trainer=trainer(task))


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
}
"""Every type of view that a defense can ask for. Another is one line, from anywhere: ``VIEWS[MyView] = my_builder``."""
