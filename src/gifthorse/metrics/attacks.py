"""What a planted backdoor does, measured against its benign twin: on the task, and downstream of it."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from gifthorse.core.classifier import Classifier, predict
from gifthorse.core.images import Images, to_levels
from gifthorse.core.recipe import AdversarialRecipe
from gifthorse.core.record import Metric
from gifthorse.core.seeds import generator
from gifthorse.core.task import Task
from gifthorse.core.trojan import Backdoor, Trojan
from gifthorse.metrics import functional
from gifthorse.metrics.functional import Counted
from gifthorse.metrics.heat import heat_differences, heat_pictures
from gifthorse.metrics.reactions import logits_and_latents, reactions
from gifthorse.metrics.stamped import (
    Evidence,
    Metrics,
    applicable,
    logits_of,
    on_black_and_white,
    shown_in_reports,
    stamp_for_judging,
    to_array,
    true_targets,
    with_trigger,
)
from gifthorse.training.adversarial import perturb

ASR_FLOOR = 0.8
# More than half of the stamped images follow the backdoor, not what the trigger does to any model.
ABOVE_TWIN = 0.5
# Of what a constant answer leaves to be gained.
ABOVE_CHANCE = 0.05
CAD_CAP = 0.05
LEAKAGE_CAP = 0.2
ATTACKED = 1000
# Fixed, as l2 draws for every batch anew: the same adversary on every device.
SEARCHED = 256


def judge_attack(trojan: Trojan, task: Task, benign: Classifier) -> tuple[Metrics, Evidence]:
    """Measure a trojan against its benign twin on the test set."""
    labels = task.test.labels
    benign_acc = functional.accuracy(logits_of(benign, task.test, "benign model"), labels)
    whole = logits_and_latents(trojan.model, task.test, "trojaned model")
    clean = whole[0]
    acc = functional.accuracy(clean, labels)
    metrics: Metrics = {
        "benign.acc": benign_acc,
        "benign.chance": functional.constant_accuracy(labels),
        "attack.acc": acc,
        "attack.ccc": functional.confidence(clean, labels),
    }
    if isinstance(task.recipe, AdversarialRecipe):
        metrics["benign.adversarial_acc"] = _adversarial_accuracy(benign, task, task.recipe)
        metrics["attack.adversarial_acc"] = _adversarial_accuracy(trojan.model, task, task.recipe)
    shown = shown_in_reports(trojan, task)
    pictures = task.test.take(shown)
    evidence: Evidence = {
        "clean": to_array(pictures.pixels),
        "labels": to_array(pictures.labels),
        "clean_predictions": to_array(clean[shown].argmax(1)),
    }
    backdoor = trojan.backdoor
    if backdoor is not None:
        twin_acc = benign_acc
        if trojan.twin is not benign:
            twin_acc = functional.accuracy(logits_of(trojan.twin, task.test, "benign twin"), labels)
        metrics |= {"attack.twin_acc": twin_acc, "attack.cad": Counted(twin_acc - acc, acc.n)}
        measured, found = _with_backdoor(trojan, backdoor, task.test, whole, shown)
        metrics |= measured
        evidence |= found
        metrics["attack.valid"] = not doubts(applicable(metrics))
        if backdoor.trigger.mask is not None:
            evidence["true_mask"] = backdoor.trigger.mask.cpu().numpy()
    return applicable(metrics), evidence


def doubts(metrics: Mapping[str, Metric]) -> list[str]:
    """Return why an attack does not count, a phrase for each reason; none where it is valid or there is no attack.

    ``metrics`` is what :func:`judge_attack` measured: the backdoor has to work, and not on the benign twin as well, in
    a model that is as accurate as a twin that learnt something.
    """
    if "attack.targets" not in metrics:
        return []
    measured = {name: float(value) for name, value in metrics.items() if not isinstance(value, list)}
    if not {"attack.asr", "benign.asr"} <= measured.keys():
        return ["no test image to stamp"]
    asr, by_trigger, cad = measured["attack.asr"], measured["benign.asr"], measured["attack.cad"]
    twin_acc, chance, leakage = (
        measured["attack.twin_acc"],
        measured["benign.chance"],
        measured.get("attack.leakage", 0),
    )
    found = []
    if asr < ASR_FLOOR:
        found.append(f"success rate {asr:.3f}, under {ASR_FLOOR:g}")
    elif asr - by_trigger < ABOVE_TWIN:
        found.append(f"success rate {asr:.3f}, not {ABOVE_TWIN:g} above {by_trigger:.3f} on the benign twin")
    if cad > CAD_CAP:
        found.append(f"clean accuracy drop {cad:.3f}, over {CAD_CAP:g}")
    if twin_acc - chance <= ABOVE_CHANCE * (1 - chance):
        found.append(f"accuracy of the benign twin {twin_acc:.3f}, hardly above {chance:.3f} of a constant answer")
    if leakage > LEAKAGE_CAP:
        found.append(f"leakage to other source classes {leakage:.3f}, over {LEAKAGE_CAP:g}")
    return found


def _with_backdoor(
    trojan: Trojan, backdoor: Backdoor, test: Images, clean: tuple[Tensor, Tensor | None], shown: Tensor
) -> tuple[Metrics, Evidence]:
    """Count what stamped test images become, for each target and beyond the sources; keep those at ``shown (P,)``.

    ``clean`` is what :func:`logits_and_latents` gave for the same images without a trigger.
    """
    stamped, targets = stamp_for_judging(backdoor, test)
    with_trigger_on, labels = logits_and_latents(trojan.model, stamped, "trojaned model"), test.labels
    logits = with_trigger_on[0]
    unwanted = backdoor.goal.unwanted(labels)
    metrics = with_trigger(logits, labels, targets, "attack", clean[0]) | _by_target(logits, labels, targets)
    reacted, distances = reactions(clean, with_trigger_on, labels != targets, "attack")
    metrics |= reacted
    by_twin = logits_of(trojan.twin, stamped, "benign twin")
    metrics["benign.asr"] = functional.attack_success_rate(by_twin, labels, targets)
    models = {"attack": trojan.model, "benign": trojan.twin}
    metrics |= heat_differences(models, test, stamped, targets)
    if unwanted is not None:
        metrics["attack.leakage"] = functional.attack_success_rate(logits, labels, unwanted)
    pictures = {"clean_heat": test.take(shown).floats(), "stamped_heat": stamped[shown]}
    return metrics, {
        **distances,
        **heat_pictures(trojan.model, **pictures),
        "stamped": to_array(to_levels(stamped[shown])),
        "targets": to_array(targets[shown]),
        "stamped_predictions": to_array(logits[shown].argmax(1)),
        "trigger": to_array(to_levels(on_black_and_white(backdoor.trigger, test))),
    }


def judge_downstream(
    model: nn.Module, twin: nn.Module, test: Images, backdoor: Backdoor | None, *, confidences: bool
) -> Metrics:
    """Measure what is left of a trojan, and of its benign twin, after the same downstream tuning.

    ``test`` holds the downstream user's test images; the backdoor's target keeps its number among their classes.
    Without ``confidences`` the softmax of the logits means nothing, and there is no TMC.
    """
    labels, tuned = test.labels, "tuned benign twin"
    acc = functional.accuracy(logits_of(model, test, "tuned model"), labels)
    metrics: Metrics = {"downstream.acc": acc}
    if backdoor is not None:
        stamped, targets = stamp_for_judging(backdoor, test)
        twin_acc = functional.accuracy(logits_of(twin, test, tuned), labels)
        metrics["downstream.cad"] = Counted(twin_acc - acc, acc.n)
        metrics |= with_trigger(logits_of(model, stamped, "tuned model"), labels, targets, "downstream")
        by_twin = logits_of(twin, stamped, tuned)
        metrics["downstream.benign_asr"] = functional.attack_success_rate(by_twin, labels, targets)
        if not confidences:
            del metrics["downstream.tmc"]
    return applicable(metrics)


def _by_target(logits: Tensor, labels: Tensor, targets: Tensor) -> Metrics:
    """Return the classes that stamped images should get, and where there are several the success on each."""
    reached = true_targets(targets, labels)
    metrics: Metrics = {"attack.targets": [float(target) for target in reached]}
    if len(reached) > 1:
        each: list[float] = []
        for target in reached:
            there = targets == target
            each.append(functional.attack_success_rate(logits[there], labels[there], targets[there]))
        metrics |= {"attack.asr_by_target": each, "attack.asr_min": min(each)}
    return metrics


def _adversarial_accuracy(model: Classifier, task: Task, adversary: AdversarialRecipe) -> Counted:
    """Attack the first test images; the search costs many times a plain prediction."""
    images, random = task.test.take(slice(ATTACKED)), generator(0, "judge", "adversary", device=task.test.device)
    found = [
        perturb(model, pixels, labels, adversary.search(start="random", returned="best"), random)
        for pixels, labels in images.batches(SEARCHED)
    ]
    return functional.accuracy(predict(model, torch.cat(found)), images.labels)
