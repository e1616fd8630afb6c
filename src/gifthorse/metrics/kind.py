"""What is asked of one kind of outcome: how it is judged, what it answers, and what of it is timed."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from torch import Tensor

from gifthorse.core.outcomes import Outcome
from gifthorse.core.task import Task
from gifthorse.core.trojan import Trojan
from gifthorse.metrics.stamped import Evidence, Metrics

Given = TypeVar("Given", bound=Outcome)

Watch = Callable[[Callable[[Tensor], Tensor]], Callable[[Tensor], Tensor]]
"""Returns the same function of a batch of inputs, observed."""


@dataclass(frozen=True, eq=False)
class Case:
    """The truth that an outcome meets; ``attack`` is what was measured of the trojan before the defense."""

    trojan: Trojan
    task: Task
    attack: Metrics
    seed: int


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
