"""What a planted backdoor does where its trigger is shown otherwise than it was planted."""

from dataclasses import replace

from torch import Tensor

from gifthorse.core.images import Images, to_levels
from gifthorse.core.seeds import generator
from gifthorse.core.stamping import ImageTransformation, Stamping
from gifthorse.core.task import Task
from gifthorse.core.trojan import Trojan
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


def unstamped(stamp: Stamping | None, images: Images) -> Images:
    """Return what becomes of images without a trigger: transformed where the stamping transforms whole images."""
    if not isinstance(stamp, ImageTransformation):
        return images
    random = generator(0, "judge", "stamp", device=images.device)
    return replace(images, pixels=to_levels(stamp.transformed(images.floats(), random)))


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
        metrics |= with_trigger(logits_of(trojan.model, stamped, "trojaned model"), labels, targets, "stamp")
        by_twin = logits_of(trojan.twin, stamped, "benign twin")
        metrics["stamp.benign_asr"] = functional.attack_success_rate(by_twin, labels, targets)
        if controls is not None:
            metrics["stamp.unstamped_asr"] = functional.attack_success_rate(controls, labels, targets)
        evidence["varied"] = to_array(to_levels(stamped[shown]))
    return applicable(metrics), evidence
