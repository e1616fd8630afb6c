"""The judge of defenses: the only place where a defense's answer meets the truth."""

import numpy as np
import torch

from gifthorse.core.anomaly import says_something
from gifthorse.core.classifier import predict
from gifthorse.core.images import to_levels
from gifthorse.core.outcomes import CleanModel, InputScreen, ModelVerdict, Outcome
from gifthorse.core.seeds import generator
from gifthorse.core.task import Task
from gifthorse.core.trojan import Trojan
from gifthorse.metrics import functional
from gifthorse.metrics.stamped import (
    Evidence,
    Metrics,
    applicable,
    named,
    shown_in_reports,
    stamp_for_judging,
    to_array,
    with_trigger,
)

SCREENED = 500


def judge_defense(outcome: Outcome, trojan: Trojan, task: Task, attack: Metrics, seed: int) -> tuple[Metrics, Evidence]:
    """Compare a defense's outcome with the truth; ``attack`` is what :func:`judge_attack` measured before it."""
    if isinstance(outcome, CleanModel):
        metrics, evidence = _judge_clean_model(outcome, trojan, task, attack)
    elif isinstance(outcome, InputScreen):
        metrics, evidence = _judge_screen(outcome, trojan, task, seed)
    else:
        metrics, evidence = _judge_verdict(outcome, trojan, task)
    return applicable(metrics), evidence


def _judge_clean_model(outcome: CleanModel, trojan: Trojan, task: Task, attack: Metrics) -> tuple[Metrics, Evidence]:
    labels = task.test.labels
    clean = predict(outcome.model, task.test)
    acc = functional.accuracy(clean, labels)
    metrics: Metrics = {
        "defense.acc": acc,
        "defense.ccc": functional.confidence(clean, labels),
        "defense.cad": float(attack["attack.acc"]) - acc,  # type: ignore[arg-type]
    }
    evidence: Evidence = {}
    if trojan.backdoor is not None:
        stamped, targets = stamp_for_judging(trojan.backdoor, task.test)
        metrics |= with_trigger(predict(outcome.model, stamped), labels, targets, "defense")
        metrics["defense.ard"] = float(attack["attack.asr"]) - float(metrics["defense.asr"])  # type: ignore[arg-type]
    if outcome.reform is not None:
        shown = task.test.take(shown_in_reports(trojan, task))
        pixels = shown.floats() if trojan.backdoor is None else stamp_for_judging(trojan.backdoor, shown)[0]
        evidence["reformed"] = to_array(to_levels(outcome.reform(pixels)))
    return metrics, evidence


def _judge_screen(outcome: InputScreen, trojan: Trojan, task: Task, seed: int) -> tuple[Metrics, Evidence]:
    """Score pairs of clean and stamped images: all of them, not only those on which the attack succeeded."""
    order = torch.randperm(len(task.test), generator=generator(seed, "judge")).to(task.test.device)
    if trojan.backdoor is not None:
        order = order[trojan.backdoor.goal.sources(task.test.labels)[order]]
    pairs = task.test.take(order[:SCREENED])
    clean = outcome.score(pairs.floats())
    evidence: Evidence = {"clean_scores": clean.cpu().numpy(), "threshold": np.array(outcome.threshold)}
    metrics: Metrics = {"defense.fpr": float((clean > outcome.threshold).float().mean())}
    if trojan.backdoor is not None:
        stamped = outcome.score(stamp_for_judging(trojan.backdoor, pairs)[0])
        metrics |= named(functional.decisions(clean > outcome.threshold, stamped > outcome.threshold), "defense")
        metrics["defense.auroc"] = functional.auroc(clean, stamped)
        evidence["stamped_scores"] = stamped.cpu().numpy()
    return metrics, evidence


def _judge_verdict(outcome: ModelVerdict, trojan: Trojan, task: Task) -> tuple[Metrics, Evidence]:
    metrics: Metrics = {
        "defense.index": outcome.index,
        "defense.flagged": outcome.suspect is not None,
        "defense.scores": outcome.scores.tolist(),
    }
    if outcome.decisive is None or says_something(outcome.scores):
        metrics["defense.aiv"] = outcome.anomaly_index
    metrics |= named({f"aiv_{name}": value for name, value in outcome.readouts.items()}, "defense")
    evidence: Evidence = {}
    if outcome.suspect is not None:
        metrics["defense.suspect_class"] = outcome.suspect
    triggers = outcome.triggers
    if triggers is not None:
        evidence["masks"] = triggers.mask.cpu().numpy()
        evidence["patterns"] = to_array(to_levels(triggers.pattern))
        if triggers.success is not None:
            metrics["defense.held_out_asr"] = triggers.success.tolist()
    if trojan.backdoor is not None:
        targets = trojan.backdoor.goal.targets(task.test.labels)
        target = int(targets[0])
        # Above all others, not beside them: who scores all classes alike has named none.
        metrics["defense.hit"] = bool((outcome.scores < outcome.scores[target]).sum() == len(outcome.scores) - 1)
        if triggers is not None:
            mask = triggers.mask[target]
            metrics["defense.mln"] = functional.mask_norm(mask)
            if trojan.backdoor.trigger.mask is not None:
                metrics["defense.mjs"] = functional.mask_jaccard(mask, trojan.backdoor.trigger.mask)
            logits = predict(trojan.model, triggers.stamp(task.test.floats(), target))
            metrics["defense.recovered_asr"] = functional.attack_success_rate(logits, task.test.labels, targets)
    return metrics, evidence
