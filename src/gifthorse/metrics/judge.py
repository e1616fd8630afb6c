"""The judge of defenses: the only place where a defense's answer meets the truth."""

from typing import Any

from torch import Tensor

from gifthorse.core.outcomes import CleanModel, InputScreen, ModelVerdict, Outcome, SuspectSamples
from gifthorse.core.stamping import Stamping
from gifthorse.core.task import Task
from gifthorse.core.trojan import Trojan
from gifthorse.metrics import clean_model, input_screen, model_verdict, suspect_samples
from gifthorse.metrics.kind import Case, Kind, Watch
from gifthorse.metrics.stamped import Evidence, Metrics, applicable
from gifthorse.metrics.varied import varied

KINDS: dict[type[Outcome], Kind[Any]] = {
    CleanModel: clean_model.KIND,
    InputScreen: input_screen.KIND,
    ModelVerdict: model_verdict.KIND,
    SuspectSamples: suspect_samples.KIND,
}
"""Every kind of outcome. Another is one module and one line, from anywhere: ``KINDS[MyOutcome] = Kind(...)``."""


def kind_of(outcome: type[Outcome]) -> Kind[Any]:
    """Return what is known of a kind of outcome, or of that which it extends; :class:`TypeError` if nothing is."""
    for each in outcome.__mro__:
        if each in KINDS:
            return KINDS[each]
    raise TypeError(f"gifthorse.metrics.judge.KINDS does not say how a {outcome.__name__} is judged")


def judge_defense(
    outcome: Outcome,
    trojan: Trojan,
    task: Task,
    attack: Metrics,
    seed: int,
    watch: Watch | None = None,
    stamp: Stamping | None = None,
) -> tuple[Metrics, Evidence]:
    """Compare a defense's outcome with the truth; ``attack`` is what :func:`judge_attack` measured before it.

    With a ``stamp`` the trigger is shown so, and what was measured before it includes :func:`judge_stamp`'s numbers.
    ``watch`` may observe the function that answers inputs, where the outcome works online, while it is judged.
    """
    kind = kind_of(type(outcome))
    if watch is not None and kind.watch is not None:
        outcome = kind.watch(outcome, watch)
    # What a defense loses or gains is against the same images without it.
    before = dict(attack)
    for part in ("acc", "asr"):
        if f"stamp.{part}" in attack:
            before[f"attack.{part}"] = attack[f"stamp.{part}"]
    case = Case(varied(trojan, stamp), task, before, seed, stamp)
    metrics, evidence = kind.judge(outcome, case)
    return applicable(metrics), evidence


def answers(outcome: Outcome, pixels: Tensor) -> dict[str, Tensor]:
    """Return all that an outcome says, by name, when it is shown float pixels ``(N, C, H, W)`` in [0,1]."""
    return kind_of(type(outcome)).answers(outcome, pixels)
