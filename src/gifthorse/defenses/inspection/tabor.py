"""TABOR: Neural Cleanse's search with regularisers that rule out large, scattered, blocking and overlaying triggers.

Paper: Guo et al. 2019, arXiv:1908.01763, sections 4 and 5; TrojanZoo section 4.3 and Table 21 (the six weights).
Differs: mask and pattern both count in units of 0 to 255, for which the authors chose their weights; with a mask in
    [0,1] beside a pattern in [0,255] the cheapest answer is a mask over half of the image. Of all triggers that reach
    their class the one with the smallest mask is kept, and its norm is scored, as TrojanZoo does. The paper's own
    quality of a trigger is read out beside it (``quality``), put together from its five terms with equal weights:
    its weights and its explanation technique (here the gradient of the target's logit) were not at hand. Neither paper
    prints the budget: the learning rate is that of the authors' code, the number of steps that of its instructions, a
    step being 31 mini-batches as in Neural Cleanse. Classes are searched side by side, and a fifth of the clean images
    is held out.
"""

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from gifthorse.core.anomaly import anomaly_indices
from gifthorse.core.classifier import Classifier, inference_batch
from gifthorse.core.images import Images
from gifthorse.core.outcomes import ModelVerdict, RecoveredTriggers
from gifthorse.core.seeds import derive
from gifthorse.core.views import ModelView
from gifthorse.inversion.engine import Best, Budget, Masked, Trial, best_restart, invert, watching
from gifthorse.inversion.frozen import freeze
from gifthorse.inversion.inspector import Inspector, credited, hold_out, judge_by_size, masked, with_success

LEVELS = 255
SUPPORT = 0.1
"""A pixel belongs to a trigger where its mask is above this."""


class Tabor(Inspector):
    """Recovers a compact trigger of every class under six regularisers and flags an abnormally small one."""

    name = "tabor"
    paper = "Guo et al. 2019, arXiv:1908.01763"
    variants = ("tabor[blocking=0.01,overlaying=0.0,restarts=2]",)

    steps: int = Field(500, ge=1, description="steps of the search")
    batches: int = Field(31, ge=1, description="mini-batches per step")
    batch_size: int = Field(32, ge=1, description="images per mini-batch and class")
    lr: float = Field(1e-3, gt=0, description="Adam's learning rate for mask and pattern")
    mask_size: float = Field(1e-6, ge=0, description="λ1: weight of the mask's L1 norm and squared L2 norm")
    pattern_size: float = Field(1e-5, ge=0, description="λ2: the same for the pattern outside the mask")
    mask_smoothness: float = Field(1e-7, ge=0, description="λ3: weight of the mask's squared neighbour differences")
    pattern_smoothness: float = Field(1e-8, ge=0, description="λ4: the same for the pattern outside the mask")
    blocking: float = Field(0.0, ge=0, description="λ5: weight of answering as before where the trigger is blocked out")
    overlaying: float = Field(1e-2, ge=0, description="λ6: weight of the trigger alone, on black, reaching the class")
    success: float = Field(0.99, gt=0, le=1, description="share of images that a kept trigger sends to its class")
    restarts: int = Field(1, ge=1, description="searches per class, from different starts; the smallest trigger counts")
    anomaly_threshold: float = Field(2.0, gt=0, description="anomaly index above which a class is suspect")
    max_batch: int | None = Field(None, ge=1, description="stamped images per forward pass; null: by device")

    def defend(self, view: ModelView, seed: int) -> ModelVerdict:
        """Search all classes, then look for the outlier."""
        searched, held_out = hold_out(view.clean, seed)
        targets = torch.arange(view.model.classes, device=view.device).repeat(self.restarts)
        source = Masked.uniform(len(targets), searched, derive(seed, self.name))
        best = Best(len(targets), self.success, view.device)
        budget = Budget(self.steps, self.batches, self.batch_size, self.lr, max_batch=self.max_batch)
        final = invert(view.model, searched, targets, source, self.loss, best, budget, seed)
        shown = best_restart(best.settle(final), best.size, self.restarts)
        triggers = with_success(view.model, masked(shown), held_out)
        verdict = judge_by_size(source.size(shown), triggers, self.anomaly_threshold)
        quality = trigger_quality(view.model, triggers, held_out, self.max_batch)
        readouts = {**verdict.readouts, "quality": float(anomaly_indices(credited(-quality, triggers)).max())}
        return ModelVerdict(verdict.scores, verdict.suspect, triggers, readouts)

    def loss(self, trial: Trial) -> Tensor:
        """Return cross-entropy + Σ λ R ``(A,)`` (equations 3 to 8); a regulariser of weight 0 costs nothing."""
        mask, pattern = trial.shown[:, :1], trial.shown[:, 1:]
        outside = (1 - mask) * pattern
        loss = trial.cross_entropy()
        loss = loss + self.mask_size * elastic_net(mask) + self.pattern_size * elastic_net(outside)
        loss = loss + self.mask_smoothness * roughness(mask) + self.pattern_smoothness * roughness(outside)
        if self.blocking:
            blocked = trial.respond((1 - mask).unsqueeze(1) * trial.pixels)
            true = trial.labels.expand(blocked.shape[:2])
            loss = loss + self.blocking * trial.cross_entropy(blocked, true)
        if self.overlaying:
            alone = trial.respond((mask * pattern).unsqueeze(1))
            loss = loss + self.overlaying * trial.cross_entropy(alone)
        return loss


def elastic_net(values: Tensor) -> Tensor:
    """R1: L1 norm plus squared L2 norm ``(A,)`` of ``(A, C, H, W)`` in [0,1], counted in units of 0 to 255."""
    return (LEVELS * values.abs() + LEVELS**2 * values.square()).sum((1, 2, 3))


def roughness(values: Tensor) -> Tensor:
    """R2: sum of squared differences ``(A,)`` to the right and lower neighbour of ``(A, C, H, W)``, in those units."""
    down, right = values.diff(dim=2), values.diff(dim=3)
    return LEVELS**2 * (down.square().sum((1, 2, 3)) + right.square().sum((1, 2, 3)))


def trigger_quality(
    model: Classifier, triggers: RecoveredTriggers, images: Images, max_batch: int | None = None
) -> Tensor:
    """Return the paper's measure of every class's trigger ``(K,)``; low is good, hence suspicious.

    It is the sum of log sparsity (share of pixels in the mask) and log smoothness (connected parts over pixels), minus
    the logs of: success on images, confidence in the class for the trigger alone, and the share of the explanation of
    stamped images that lies on the trigger. At most ``max_batch`` share a forward pass (``None``: by device).
    """
    from scipy.ndimage import label as connected_parts

    classes = len(triggers.mask)
    inside = triggers.mask > SUPPORT
    area, size = inside[0].numel(), max_batch or inference_batch(images.device)
    parts = [connected_parts(one.squeeze(0).cpu().numpy(), np.ones((3, 3)))[1] for one in inside]
    alone, explained = [], []
    with watching(freeze(model), ()) as run:
        for label in range(classes):
            cropped = (triggers.mask[label] * triggers.pattern[label])[None]
            alone.append(run(cropped[None])[0].detach()[0, 0].softmax(0)[label])
            others = images.take(images.labels != label)
            heat = torch.zeros(images.shape[1:], device=images.device)
            for pixels, _ in (others if len(others) else images).batches(size):
                stamped = triggers.stamp(pixels, label).requires_grad_()
                (gradient,) = torch.autograd.grad(run(stamped[None])[0][0, :, label].sum(), [stamped])
                heat += gradient.abs().sum((0, 1))
            explained.append((heat * inside[label, 0]).sum() / heat.sum().clamp_min(1e-12))
    assert triggers.success is not None
    sparse = inside.sum((1, 2, 3)).clamp_min(1) / area
    smooth = torch.tensor(parts, device=images.device).clamp_min(1) / area
    good = torch.stack([triggers.success, torch.stack(alone), torch.stack(explained)]).clamp_min(1e-3)
    return sparse.log() + smooth.log() - good.log().sum(0)
