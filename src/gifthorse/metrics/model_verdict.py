"""Judging a verdict on a model: whether it names a target, and what the trigger recovered for a target does."""

from statistics import fmean

import torch
from torch import Tensor

from gifthorse.core.anomaly import anomaly_indices, says_something
from gifthorse.core.classifier import predict
from gifthorse.core.images import to_levels
from gifthorse.core.outcomes import ModelVerdict, RecoveredTriggers
from gifthorse.metrics import functional
from gifthorse.metrics.functional import Counted
from gifthorse.metrics.kind import Case, Kind
from gifthorse.metrics.stamped import Evidence, Metrics, finite, named, targets_when_judged, to_array


def _judge(outcome: ModelVerdict, case: Case) -> tuple[Metrics, Evidence]:
    if outcome.scores is not None:
        finite(outcome.scores, "scores of classes")
    finite(torch.tensor([outcome.index, *outcome.readouts.values()]), "indices of the verdict")
    metrics: Metrics = {"defense.index": outcome.index, "defense.flagged": bool(outcome.flagged)}
    if outcome.scores is not None:
        metrics["defense.scores"] = outcome.scores.tolist()
        if outcome.decisive is None or says_something(outcome.scores):
            metrics["defense.aiv"] = outcome.anomaly_index
    metrics |= named({f"aiv_{name}": value for name, value in outcome.readouts.items()}, "defense")
    metrics |= {f"defense.{name}": value for name, value in outcome.findings.items()}
    evidence: Evidence = {name: to_array(array) for name, array in outcome.evidence.items()}
    metrics |= _flagged_classes(outcome, case)
    if outcome.suspect is not None:
        metrics["defense.suspect_class"] = outcome.suspect
    triggers = outcome.triggers
    if triggers is not None:
        evidence["masks"] = triggers.mask.cpu().numpy()
        evidence["patterns"] = to_array(to_levels(triggers.pattern))
        if triggers.success is not None:
            metrics["defense.held_out_asr"] = _held_out_asr(triggers.success, triggers.held_out)
    if case.trojan.backdoor is not None:
        targets = targets_when_judged(case.trojan.backdoor, case.task.test)
        if outcome.scores is not None and targets:
            top = int(outcome.scores.argmax())
            # Above all others, not beside them: who scores all classes alike has named none.
            alone = int((outcome.scores < outcome.scores[top]).sum()) == len(outcome.scores) - 1
            metrics["defense.hit"] = alone and top in targets
            if "defense.aiv" in metrics:
                indices = anomaly_indices(outcome.scores)
                metrics["defense.aiv_target"] = fmean(float(indices[target]) for target in targets)
        if triggers is not None and targets:
            metrics |= _judge_triggers(triggers, targets, case)
    return metrics, evidence


def _flagged_classes(outcome: ModelVerdict, case: Case) -> Metrics:
    """Compare the classes above the threshold with the targets; on a benign model every one of them is wrong."""
    backdoor, suspects = case.trojan.backdoor, set(outcome.suspects or ())
    targets = set() if backdoor is None else set(targets_when_judged(backdoor, case.task.test))
    found: Metrics = {}
    if targets:
        found["defense.missed"] = not outcome.flagged
    if outcome.scores is not None:
        others = set(range(len(outcome.scores))) - targets
        if others:
            found["defense.false_positive_classes"] = Counted(len(suspects & others) / len(others), len(others))
        if targets:
            found["defense.class_detected"] = bool(suspects & targets)
    return found


def _judge_triggers(triggers: RecoveredTriggers, targets: list[int], case: Case) -> Metrics:
    """Measure the triggers recovered for the true targets, in the mean over these."""
    assert case.trojan.backdoor is not None
    true_mask, test = case.trojan.backdoor.trigger.mask, case.task.test
    metrics: Metrics = {"defense.mln": fmean(functional.mask_norm(triggers.mask[target]) for target in targets)}
    if true_mask is not None:
        masks = [triggers.mask[target] for target in targets]
        metrics["defense.mjs"] = fmean(functional.mask_jaccard(mask, true_mask) for mask in masks)
        metrics["defense.mjs_top"] = fmean(functional.mask_jaccard_top(mask, true_mask) for mask in masks)

    def success(target: int) -> Counted:
        logits = predict(case.trojan.model, triggers.stamp(test.floats(), target))
        return functional.attack_success_rate(logits, test.labels, torch.full_like(test.labels, target))

    each = [success(target) for target in targets]
    metrics["defense.recovered_asr"] = Counted(fmean(each), sum(rate.n for rate in each))
    return metrics


def _held_out_asr(success: Tensor, tried: Tensor | None) -> list[float]:
    rates: list[float] = success.tolist()
    return rates if tried is None else [Counted(rate, n) for rate, n in zip(rates, tried.tolist(), strict=True)]


def _answers(outcome: ModelVerdict, pixels: Tensor) -> dict[str, Tensor]:  # noqa: ARG001
    found = {"index": torch.tensor(outcome.index), "flagged": torch.tensor(bool(outcome.flagged))}
    found |= {name: torch.tensor(value) for name, value in outcome.readouts.items()}
    if outcome.scores is not None:
        found["scores"] = outcome.scores
    if outcome.triggers is not None:
        found |= {"masks": outcome.triggers.mask, "patterns": outcome.triggers.pattern}
    return found


KIND = Kind(_judge, _answers)
