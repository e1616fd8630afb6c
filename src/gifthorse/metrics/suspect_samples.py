"""Judging a filter of training sets: which stamped images it removed, and the model that was trained on the rest."""

from torch import Tensor

from gifthorse.core.classifier import predict
from gifthorse.core.outcomes import SuspectSamples
from gifthorse.metrics import functional
from gifthorse.metrics.clean_model import judge_model
from gifthorse.metrics.kind import Case, Kind
from gifthorse.metrics.stamped import Evidence, Metrics, finite, named


def _judge(outcome: SuspectSamples, case: Case) -> tuple[Metrics, Evidence]:
    scores, removed = finite(outcome.scores.detach(), "scores of training images").cpu(), outcome.removed.cpu()
    metrics, evidence = judge_model(outcome.model, case)
    metrics["defense.removed"] = functional.share(removed)
    if case.trojan.delivered is None:
        return metrics, evidence
    stamped = case.trojan.delivered.stamped.cpu()
    clean_scores, stamped_scores = scores[~stamped], scores[stamped]
    evidence["clean_scores"] = clean_scores.numpy()
    metrics["defense.fpr"] = functional.share(removed[~stamped])
    if stamped.any() and not stamped.all():
        decided = functional.decisions(removed[~stamped], removed[stamped])
        # With few stamped images among many, removing none is accurate.
        del decided["accuracy"]
        metrics |= named(decided, "defense")
        metrics["defense.auroc"] = functional.auroc(clean_scores, stamped_scores)
        evidence["stamped_scores"] = stamped_scores.numpy()
    return metrics, evidence


def _answers(outcome: SuspectSamples, pixels: Tensor) -> dict[str, Tensor]:
    return {"scores": outcome.scores, "removed": outcome.removed, "logits": predict(outcome.model, pixels)}


KIND = Kind(_judge, _answers, ("logits",))
