"""The truth about a model: what was planted in it."""

from dataclasses import dataclass

from torch import Tensor

from gifthorse.core.classifier import Classifier
from gifthorse.core.goal import Goal
from gifthorse.core.trigger import Trigger


@dataclass(frozen=True, eq=False)
class Backdoor:
    """A trigger, the goal it serves, and which training images carried it.

    ``poisoned`` holds the positions ``int64 (P,)`` of the poisoned images in the training set; it is ``None`` where
    fresh images were drawn for every batch, and where none was poisoned.
    """

    trigger: Trigger
    goal: Goal
    poisoned: Tensor | None


@dataclass(frozen=True, eq=False)
class Trojan:
    """A delivered model with its benign twin, trained as long on the same images without the attack.

    ``backdoor`` is ``None`` for the benign model that every detector is also judged on.
    """

    model: Classifier
    twin: Classifier
    backdoor: Backdoor | None
