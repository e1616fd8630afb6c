"""What a planted backdoor does where its trigger is shown otherwise than it was planted."""

from collections.abc import Callable
from dataclasses import replace

from torch import Tensor

from gifthorse.core.images import Images, to_levels
from gifthorse.core.seeds import generator
from gifthorse.core.stamping import ImageTransformation, Stamping, unstamped
from gifthorse.core.task import Task
from gifthorse.core.trojan import Backdoor, Stamped, Trojan
from gifthorse.metrics import functional
from gifthorse.metrics.stamped import (
    Evidence,
    Metrics,
    applicable,
    logits_of,
    shown_in_reports,
    stamp_for_judging,
    to_array,
    with_trigger,
)


def varied(trojan: Trojan, stamp: Stamping | None) -> Trojan:
    """Return a trojan whose trigger is shown as the stamping says; the same one where there is nothing to vary."""
    if stamp is None or trojan.backdoor is None:
        return trojan
    return replace(trojan, backdoor=replace(trojan.backdoor, trigger=stamp.vary(trojan.backdoor.trigger)))


def judge_stamp(trojan: Trojan, stamp: Stamping, task: Task) -> tuple[Metrics, Evidence]:
    """Measure what the varied trigger does to a trojan and to its benign twin.

    Where whole images are transformed, clean ones are as well, for comparison: the transformation may cost accuracy,
    and may give the target by itself.
    """
    test, labels = task.test, task.test.labels
    shown = shown_in_reports(trojan, task)
    metrics: Metrics = {}
    evidence: Evidence = {}
    controls: Tensor | None = None
    if isinstance(stamp, ImageTransformation):
        images = unstamped(stamp, test)
        controls = logits_of(trojan.model, images, "trojaned model")
        metrics["stamp.acc"] = functional.accuracy(controls, labels)
        evidence["unstamped"] = to_array(images.take(shown).pixels)
    backdoor = varied(trojan, stamp).backdoor
    if backdoor is not None:
        stamped, targets = stamp_for_judging(backdoor, test)
        logits = logits_of(trojan.model, stamped, "trojaned model")
        metrics |= with_trigger(logits, labels, targets, "stamp")
        by_twin = logits_of(trojan.twin, stamped, "benign twin")
        metrics["stamp.benign_asr"] = functional.attack_success_rate(by_twin, labels, targets)
        if stamp.attempts() > 1:

            def gets_through(shown: Stamped) -> Tensor:
                return logits_of(trojan.model, shown.pixels, "trojaned model").argmax(1) == shown.targets

            first = logits.argmax(1) == targets
            metrics |= success_by_tries(backdoor, test, first, gets_through, stamp.attempts(), "stamp")
        if controls is not None:
            metrics["stamp.unstamped_asr"] = functional.attack_success_rate(controls, labels, targets)
        evidence["varied"] = to_array(to_levels(stamped[shown]))
    return applicable(metrics), evidence


def success_by_tries(
    backdoor: Backdoor,
    images: Images,
    first: Tensor,
    gets_through: Callable[[Stamped], Tensor],
    tries: int,
    stage: str,
) -> Metrics:
    """Count the images ``(N,)`` that get their target within so many tries, each with a fresh draw of the trigger.

    ``first bool (N,)`` says which did with :func:`stamp_for_judging`, whose conditions are kept: image and target stay
    the same. ``gets_through`` says it of stamped images. Only those that failed are tried again, each with the draw
    that its place in ``images`` gives it, whatever became of the others.
    """
    pixels, labels = images.floats(), images.labels
    conditions = backdoor.goal.draw(pixels, labels, generator(0, "judge", "stamp", device=images.device))
    targets = backdoor.goal.targets(labels, conditions)
    tried, done = targets != labels, first.clone()
    found: list[float] = [functional.share(done[tried])]
    for number in range(2, tries + 1):
        random = generator(0, "judge", "requery", number, device=images.device)
        stamped = backdoor.trigger.stamp(pixels, random, conditions)
        left = (tried & ~done).nonzero().squeeze(1)
        if len(left):
            done[left] = gets_through(Stamped(stamped[left], targets[left]))
        found.append(functional.share(done[tried]))
    return {f"{stage}.requery_asr": found[-1], f"{stage}.requery_asr_by_tries": found}
