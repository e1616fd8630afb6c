"""What a defense hands back. Higher scores are more suspicious, always; one that is not finite fails the cell."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from html import escape
from typing import TypeVar, cast

from torch import Tensor, nn

from gifthorse.core.anomaly import anomaly_indices
from gifthorse.core.classifier import BlackBox, Classifier
from gifthorse.core.trigger import blend
from gifthorse.core.views import DataFreeView, SuspectDataView

V = TypeVar("V", bound=DataFreeView)


class Outcome:
    """Base of everything that a defense may hand back.

    Another kind is a subclass, and a line in :data:`gifthorse.metrics.judge.KINDS` that says how it is judged.
    """

    def after(self, view: V) -> V | str:  # noqa: ARG002
        """Return what the next defense of a pipeline holds, if this one held ``view``; or one sentence why none can."""
        return f"no defense can follow an answer of the kind {type(self).__name__}"


@dataclass(frozen=True, eq=False)
class CleanModel(Outcome):
    """A model to use instead: sanitized, or with a reformation of its input in front.

    ``model`` maps float pixels in [0,1] to logits in evaluation mode. ``reform``, where the defense reforms inputs,
    is that first step alone: float pixels to float pixels. Both are called under ``torch.inference_mode()``; a reform
    that needs gradients leaves it (``torch.inference_mode(False)``, ``torch.enable_grad()``) and works on a clone.

    ``findings`` is what the defense can tell of the model without the truth, shares in [0,1] by the last part of a
    metric's name; ``samples (N, C, H, W)`` in [0,1] are some of those that it made to train on.
    """

    model: nn.Module
    reform: Callable[[Tensor], Tensor] | None = None
    findings: Mapping[str, float] = field(default_factory=dict)
    samples: Tensor | None = None

    def after(self, view: V) -> V | str:
        """Put the model in the place of the one that was looked at."""
        return _with_model(view, self.model)


@dataclass(frozen=True, eq=False)
class InputScreen(Outcome):
    """A score for any input; ``score`` maps float pixels ``(N, C, H, W)`` to ``(N,)``.

    An input is flagged when its score exceeds ``threshold``, which was fitted on the defender's own clean images.
    ``model``, where there is one, answers in the delivered one's place, as in :class:`CleanModel`: it may know how to
    answer an input that is flagged, or have been sanitized.
    """

    score: Callable[[Tensor], Tensor]
    threshold: float
    model: nn.Module | None = None


@dataclass(frozen=True, eq=False)
class RecoveredTriggers:
    """Candidate triggers, one per class, as masks ``(K, 1, H, W)`` and patterns ``(K, C, H, W)`` in [0,1].

    Where a method adds a ``perturbation (K, C, H, W)`` in [-1,1] instead, that is what is stamped; mask and pattern
    then only show it. ``success (K,)`` is the share of the defender's held-out images of other classes that each
    trigger sends to its class, ``held_out (K,)`` the number of these images.
    """

    mask: Tensor
    pattern: Tensor
    perturbation: Tensor | None = None
    success: Tensor | None = None
    held_out: Tensor | None = None

    def stamp(self, pixels: Tensor, label: int) -> Tensor:
        """Return ``(N, C, H, W)`` in [0,1] with the trigger of one class."""
        if self.perturbation is not None:
            return (pixels + self.perturbation[label]).clamp(0, 1)
        return blend(pixels, self.mask[label], self.pattern[label], 0.0)


@dataclass(frozen=True, eq=False)
class ModelVerdict(Outcome):
    """A score per class ``(K,)`` and the class under suspicion, if any.

    ``suspect`` is the class with the highest score, where the index that the method decides by is above its threshold.
    That index is the anomaly index of the scores unless the method has one of its own (``decisive``). ``readouts``
    holds further model-level indices by name (higher = more suspicious). A method that judges the model as a whole has
    no scores, and then has to give ``decisive`` and ``flagged``; otherwise a model is flagged where a class is suspect.

    ``suspects`` are all classes above the threshold, the suspect alone unless given. ``findings`` is what else a method
    tells, by the last part of a metric's name, and ``evidence`` the arrays that reports draw, by name.
    """

    scores: Tensor | None
    suspect: int | None
    triggers: RecoveredTriggers | None = None
    readouts: dict[str, float] = field(default_factory=dict)
    decisive: float | None = None
    flagged: bool | None = None
    suspects: tuple[int, ...] | None = None
    findings: Mapping[str, float | list[float]] = field(default_factory=dict)
    evidence: Mapping[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.scores is None and (self.decisive is None or self.flagged is None):
            raise ValueError(
                "a verdict without scores needs the number that decides (decisive) and the answer (flagged)"
            )
        if self.flagged is None:
            object.__setattr__(self, "flagged", self.suspect is not None)
        if self.suspects is None:
            object.__setattr__(self, "suspects", () if self.suspect is None else (self.suspect,))

    def __repr__(self) -> str:
        named = "" if self.suspect is None else f", class {self.suspect} is suspect"
        return f"<ModelVerdict {'flagged' if self.flagged else 'not flagged'}, index {self.index:.4g}{named}>"

    def _repr_html_(self) -> str:
        """Return the indices as a small table, which notebooks show."""
        numbers = {"index": self.index, **self.readouts}
        rows = (f"<tr><th>{escape(name)}</th><td>{value:.4g}</td></tr>" for name, value in numbers.items())
        return f"<table><caption>{escape(repr(self)[1:-1])}</caption>{''.join(rows)}</table>"

    def after(self, view: V) -> V | str:
        """Tell the next defense this verdict: which class is suspect, if any, and what triggers were recovered."""
        return replace(view, verdict=self)

    @property
    def anomaly_index(self) -> float:
        """AIV, TrojanZoo section 4.4: the largest one-sided anomaly index of the scores; NaN where there are none."""
        return float("nan") if self.scores is None else float(anomaly_indices(self.scores).max())

    @property
    def index(self) -> float:
        """The number that the method compares with its threshold."""
        return self.anomaly_index if self.decisive is None else self.decisive


@dataclass(frozen=True, eq=False)
class SuspectSamples(Outcome):
    """What is wrong with a training set: a score ``(N,)`` for each of its images, in its order, and which to remove.

    ``removed`` is ``bool (N,)``; ``model`` is what was retrained without those, as in :class:`CleanModel`.
    """

    scores: Tensor
    removed: Tensor
    model: nn.Module

    def after(self, view: V) -> V | str:
        """Put the retrained model in the place of the one that was looked at, beside the images that were kept."""
        given = _with_model(view, self.model)
        if isinstance(given, SuspectDataView):
            return replace(given, suspect=given.suspect.take(~self.removed))
        return given


def _with_model(view: V, model: nn.Module) -> V | str:
    if not isinstance(model, Classifier | BlackBox):
        return "the defense before it hands back a network whose parts are unknown, not a classifier"
    return replace(view, model=cast(Classifier, model))
