"""Judging a model that is to be used instead of the delivered one."""

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor, nn

from gifthorse.core.classifier import predict
from gifthorse.core.images import to_levels
from gifthorse.core.outcomes import CleanModel
from gifthorse.metrics import functional
from gifthorse.metrics.functional import Counted
from gifthorse.metrics.kind import Case, Kind, Watch
from gifthorse.metrics.reactions import logits_and_latents, reactions
from gifthorse.metrics.stamped import (
    Evidence,
    Metrics,
    named,
    shown_in_reports,
    stamp_for_judging,
    to_array,
    with_trigger,
)

Reform = Callable[[Tensor], Tensor]


def judge_model(model: nn.Module, case: Case, reform: Reform | None = None) -> tuple[Metrics, Evidence]:
    """Measure what a model still gets right, and what the trigger still does to it.

    The evidence is what becomes of the images that reports show, with the trigger where there is one, and how far the
    trigger moves the model's activations.
    """
    task, backdoor = case.task, case.trojan.backdoor
    labels, shown = task.test.labels, shown_in_reports(case.trojan, task)
    clean = logits_and_latents(model, case.clean(task.test), "defended model")
    metrics, evidence = kept(clean[0], labels, case), Evidence()
    if backdoor is None:
        logits, pictures = clean[0], case.clean(task.test.take(shown)).floats()
    else:
        stamped, targets = stamp_for_judging(backdoor, task.test)
        reacting, pictures = logits_and_latents(model, stamped, "defended model"), stamped[shown]
        logits = reacting[0]
        metrics |= gained(logits, labels, targets, case, clean[0])
        metrics["defense.unstamped_asr"] = functional.attack_success_rate(clean[0], labels, targets)
        reacted, evidence = reactions(clean, reacting, labels != targets, "defense")
        metrics |= reacted
    evidence["defended_predictions"] = to_array(logits[shown].argmax(1))
    if reform is not None:
        with torch.inference_mode():
            evidence["reformed"] = to_array(to_levels(reform(pictures)))
    return metrics, evidence


def kept(logits: Tensor, labels: Tensor, case: Case) -> Metrics:
    """Measure on the logits ``(N, K)`` of clean images what a model still gets right, and what that cost."""
    acc = functional.accuracy(logits, labels)
    return {
        "defense.acc": acc,
        "defense.ccc": functional.confidence(logits, labels),
        "defense.cad": Counted(float(case.attack["attack.acc"]) - acc, acc.n),  # type: ignore[arg-type]
    }


def gained(logits: Tensor, labels: Tensor, targets: Tensor, case: Case, clean: Tensor | None = None) -> Metrics:
    """Measure on the logits ``(N, K)`` of stamped images what the trigger still does, and what that gained.

    ``clean (N, K)`` are the logits of the same images without a trigger, where these are known.
    """
    asr = functional.attack_success_rate(logits, labels, targets)
    ard = Counted(float(case.attack["attack.asr"]) - asr, asr.n)  # type: ignore[arg-type]
    return {**with_trigger(logits, labels, targets, "defense", clean), "defense.ard": ard}


def _judge(outcome: CleanModel, case: Case) -> tuple[Metrics, Evidence]:
    metrics, evidence = judge_model(outcome.model, case, outcome.reform)
    if outcome.samples is not None:
        evidence["samples"] = to_array(to_levels(outcome.samples))
    return metrics | named(outcome.findings, "defense"), evidence


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
