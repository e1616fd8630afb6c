"""What a defense hands back. Higher scores are more suspicious, always."""

from collections.abc import Callable
from dataclasses import dataclass, field

from torch import Tensor, nn

from gifthorse.core.anomaly import anomaly_indices


@dataclass(frozen=True, eq=False)
class CleanModel:
    """A model to use instead: sanitized, or with a reformation of its input in front.

    ``model`` maps float pixels in [0,1] to logits in evaluation mode. ``reform``, where the defense reforms inputs,
    is that first step alone: float pixels to float pixels.
    """

    model: nn.Module
    reform: Callable[[Tensor], Tensor] | None = None


@dataclass(frozen=True, eq=False)
class InputScreen:
    """A score for any input; ``score`` maps float pixels ``(N, C, H, W)`` to ``(N,)``.

    An input is flagged when its score exceeds ``threshold``, which was fitted on the defender's own clean images.
    """

    score: Callable[[Tensor], Tensor]
    threshold: float


@dataclass(frozen=True, eq=False)
class RecoveredTriggers:
    """Candidate triggers, one per class: ``mask (K, 1, H, W)`` and ``pattern (K, C, H, W)`` in [0,1]."""

    mask: Tensor
    pattern: Tensor


@dataclass(frozen=True, eq=False)
class ModelVerdict:
    """A score per class ``(K,)`` and the class under suspicion, if any.

    ``readouts`` holds further model-level indices by name (higher = more suspicious) beside the published one;
    ``suspect`` is the class whose index is above the method's threshold.
    """

    scores: Tensor
    suspect: int | None
    triggers: RecoveredTriggers | None = None
    readouts: dict[str, float] = field(default_factory=dict)

    @property
    def anomaly_index(self) -> float:
        """AIV, TrojanZoo section 4.4: the largest one-sided anomaly index of the scores."""
        return float(anomaly_indices(self.scores).max())


Outcome = CleanModel | InputScreen | ModelVerdict
