"""What looks inside of a model whose truth is known: numbers, and arrays that reports draw. Nothing is judged by it."""

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import torch

from gifthorse.core.classifier import Classifier
from gifthorse.core.configuration import Configuration
from gifthorse.core.errors import RequestError
from gifthorse.core.images import Images
from gifthorse.core.stamping import Stamping, unstamped
from gifthorse.core.task import Task
from gifthorse.core.trojan import Backdoor


@dataclass(frozen=True, eq=False)
class Subject:
    """What an analysis looks at: a model as it was delivered, or as a defense left it, beside its benign twin.

    ``backdoor`` is ``None`` where nothing was planted; then the twin is the model itself. Images are the task's test
    images, without a trigger in the form that :meth:`clean` gives them. ``stamp`` says how the backdoor's trigger is
    varied, which it is already.
    """

    model: Classifier
    twin: Classifier
    backdoor: Backdoor | None
    task: Task
    stamp: Stamping | None = None

    def clean(self, images: Images, random: torch.Generator | None = None) -> Images:
        """Return images without a trigger as they are compared: transformed where the stamp transforms whole images.

        The generator is that of the same images stamped, where it is not the judges'.
        """
        return unstamped(self.stamp, images, random)

    @property
    def models(self) -> dict[str, Classifier]:
        """The model and, where that is another one, its twin, by what reports call them."""
        return {"model": self.model} if self.twin is self.model else {"model": self.model, "twin": self.twin}


Number = float | list[float]


@dataclass(frozen=True, eq=False)
class Findings:
    """What an analysis found.

    ``numbers`` are by the last part of a metric's name (``nsr`` for ``analysis.nsr``); one that does not apply is
    absent. ``evidence`` is drawn by its names, whose first part says how; parts are separated by ``/``:

    - ``pictures/caption``: ``uint8 (N, C, H, W)``, a row of pictures
    - ``points/title/group``: ``float (N, 2)``, an embedding, whose axes mean nothing
    - ``against/title/across/up/group``: ``float (2, N)``, points whose axes are named
    - ``profile/title/series``, or ``profile/title/layers/series`` with the names of the layers between commas:
      ``float (L,)``, a value at each of some layers of the network, first to last; NaN is a gap
    - ``distribution/title/group``: ``float (N,)``, a value of each image
    - ``matrix/title``: ``float (K, K)``, a value of each pair of classes
    """

    numbers: Mapping[str, Number] = field(default_factory=dict)
    evidence: Mapping[str, np.ndarray] = field(default_factory=dict)


class Analysis(Configuration):
    """Looks at a model, with all that is known of it; ``needs_backdoor`` says that there is nothing to see without."""

    catalogue = "analysis"

    needs_backdoor: ClassVar[bool] = True

    def check(self, model: Classifier, task: Task) -> None:
        """Raise :class:`RequestError` where an untrained model of the task shows that this cannot be asked of it."""

    def skip(self, subject: Subject) -> str | None:
        """Return why there is nothing to see, in one sentence; ``None`` where there is."""
        if self.needs_backdoor and subject.backdoor is None:
            return f"{self.name} compares images with and without a trigger, and there is no backdoor"
        return None

    @abstractmethod
    def look(self, subject: Subject, seed: int) -> Findings:
        """Return what is to be seen; the subject is left as it was.

        :class:`NotApplicableError`, with a sentence, where it turns out on the way that nothing is.
        """


def stage_called(model: Classifier, stage: str | None, whose: str) -> str:
    """Return the name of a stage of a network, the last where none is said; :class:`RequestError` lists them all."""
    names = model.stage_names
    if not names:
        raise RequestError(f"{whose}: needs the stages of the network; none are known")
    if stage is None:
        return names[-1]
    if stage not in names:
        raise RequestError(f"{whose}: the network has no stage '{stage}'; it has {', '.join(names)}")
    return stage
