"""Judging a screen of inputs, on clean images of all classes and on stamped images of those worth stamping."""

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from gifthorse.core.outcomes import InputScreen
from gifthorse.core.seeds import generator
from gifthorse.metrics import functional
from gifthorse.metrics.kind import Case, Kind
from gifthorse.metrics.stamped import Evidence, Metrics, finite, named, stamp_for_judging

SCREENED = 500


def _judge(outcome: InputScreen, case: Case) -> tuple[Metrics, Evidence]:
    """Score up to :data:`SCREENED` clean images of every class, and as many stamped ones that should get their target.

    The clean side keeps the target's own images: else whoever flags all that looks like the target would err nowhere.
    The stamped side has all images of other classes, not only those on which the attack succeeded.
    """
    test, backdoor = case.task.test, case.trojan.backdoor
    order = torch.randperm(len(test), generator=generator(case.seed, "judge")).to(test.device)
    clean = finite(outcome.score(case.clean(test.take(order[:SCREENED])).floats()), "scores of clean images")
    finite(torch.tensor([outcome.threshold]), "thresholds")
    evidence: Evidence = {"clean_scores": clean.cpu().numpy(), "threshold": np.array(outcome.threshold)}
    metrics: Metrics = {"defense.fpr": functional.share(clean > outcome.threshold)}
    if backdoor is not None:
        worth = order[backdoor.goal.sources(test.labels)[order]]
        images, _ = stamp_for_judging(backdoor, test.take(worth[:SCREENED]))
        stamped = finite(outcome.score(images), "scores of stamped images")
        metrics |= named(functional.decisions(clean > outcome.threshold, stamped > outcome.threshold), "defense")
        metrics["defense.auroc"] = functional.auroc(clean, stamped)
        evidence["stamped_scores"] = stamped.cpu().numpy()
    return metrics, evidence


def _answers(outcome: InputScreen, pixels: Tensor) -> dict[str, Tensor]:
    return {"scores": outcome.score(pixels), "threshold": torch.tensor(outcome.threshold)}


KIND = Kind(_judge, _answers, ("scores",), lambda outcome, watch: replace(outcome, score=watch(outcome.score)))
