"""Judging a model that is to be used instead of the delivered one."""

from dataclasses import replace

import torch
from torch import Tensor, nn

from gifthorse.core.classifier import predict
from gifthorse.core.images import to_levels
from gifthorse.core.outcomes import CleanModel
from gifthorse.metrics import functional
from gifthorse.metrics.functional import Counted
from gifthorse.metrics.kind import Case, Kind, Watch
from gifthorse.metrics.stamped import (
    Evidence,
    Metrics,
    logits_of,
    shown_in_reports,
    stamp_for_judging,
    to_array,
    with_trigger,
)


def judge_model(model: nn.Module, case: Case) -> Metrics:
    """Measure what a model still gets right, and what the trigger still does to it."""
    task, backdoor = case.task, case.trojan.backdoor
    labels = task.test.labels
    clean = logits_of(model, task.test, "defended model")
    acc = functional.accuracy(clean, labels)
    metrics: Metrics = {
        "defense.acc": acc,
        "defense.ccc": functional.confidence(clean, labels),
        "defense.cad": Counted(float(case.attack["attack.acc"]) - acc, acc.n),  # type: ignore[arg-type]
    }
    if backdoor is not None:
        stamped, targets = stamp_for_judging(backdoor, task.test)
        logits = logits_of(model, stamped, "defended model")
        asr = functional.attack_success_rate(logits, labels, targets)
        metrics |= with_trigger(logits, labels, targets, "defense")
        metrics["defense.ard"] = Counted(float(case.attack["attack.asr"]) - asr, asr.n)  # type: ignore[arg-type]
    return metrics


def _judge(outcome: CleanModel, case: Case) -> tuple[Metrics, Evidence]:
    evidence: Evidence = {}
    if outcome.reform is not None:
        backdoor, shown = case.trojan.backdoor, case.task.test.take(shown_in_reports(case.trojan, case.task))
        pixels = shown.floats() if backdoor is None else stamp_for_judging(backdoor, shown)[0]
        with torch.inference_mode():
            evidence["reformed"] = to_array(to_levels(outcome.reform(pixels)))
    return judge_model(outcome.model, case), evidence


class _Watched(nn.Module):
    def __init__(self, model: nn.Module, watch: Watch):
        super().__init__()
        self.model, self.respond = model, watch(model)

    def forward(self, pixels: Tensor) -> Tensor:
        return self.respond(pixels)


def _watch(outcome: CleanModel, watch: Watch) -> CleanModel:
    """Only a reformation of inputs works online; another model takes no longer than the old one."""
    return outcome if outcome.reform is None else replace(outcome, model=_Watched(outcome.model, watch))


KIND = Kind(_judge, lambda outcome, pixels: {"logits": predict(outcome.model, pixels)}, ("logits",), _watch)
