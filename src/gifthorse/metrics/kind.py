"""What is asked of one kind of outcome: how it is judged, what it answers, and what of it is timed."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from torch import Tensor

from gifthorse.core.images import Images
from gifthorse.core.outcomes import Outcome
from gifthorse.core.stamping import Stamping, unstamped
from gifthorse.core.task import Task
from gifthorse.core.trojan import Trojan
from gifthorse.metrics.stamped import Evidence, Metrics

Given = TypeVar("Given", bound=Outcome)

Watch = Callable[[Callable[[Tensor], Tensor]], Callable[[Tensor], Tensor]]
"""Returns the same function of a batch of inputs, observed."""


@dataclass(frozen=True, eq=False)
class Case:
    """The truth that an outcome meets; ``attack`` is what was measured of the trojan before the defense.

    Where there is a ``stamp``, the trojan's trigger and the numbers before are those of its variation.
    """

    trojan: Trojan
    task: Task
    attack: Metrics
    seed: int
    stamp: Stamping | None = None

    def clean(self, images: Images) -> Images:
        """Return what is shown of test images that carry no trigger."""
        return unstamped(self.stamp, images)


@dataclass(frozen=True)
class Kind(Generic[Given]):
    """One kind of outcome.

    ``judge`` compares it with the truth, in metrics named ``defense.…`` and in arrays for the report. ``answers``
    returns all that it says when shown float pixels ``(N, C, H, W)``, by name; ``per_image`` names those with a row per
    image. ``watch``, for what works online, returns the outcome with the function that answers inputs observed.
    """

    judge: Callable[[Given, Case], tuple[Metrics, Evidence]]
    answers: Callable[[Given, Tensor], dict[str, Tensor]]
    per_image: tuple[str, ...] = ()
    watch: Callable[[Given, Watch], Given] | None = None
