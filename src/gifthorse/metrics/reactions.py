"""How far a trigger moves what a model computes: differences of inner and output activations.

DHBE, section 5.3 and Figures 7 and 8: between clean images and the same ones stamped, at an inner layer and at the
output, by two distances whose names are lost in print. Here: the penultimate layer and the logits, L1 and L2.
"""

import torch
from torch import Tensor, nn

from gifthorse.core.classifier import Classifier
from gifthorse.core.images import Images
from gifthorse.metrics.functional import Counted
from gifthorse.metrics.stamped import Evidence, Metrics, logits_of, to_array

COMPARED = 500
"""Of so many test images, the first, activations are compared: those of the target class are left out."""


def logits_and_latents(model: nn.Module, images: Images | Tensor, whose: str) -> tuple[Tensor, Tensor | None]:
    """Return the logits ``(N, K)`` that are judged and, of the same pass, the penultimate layer ``(COMPARED, D)``.

    ``None`` in place of the latter where there is no such layer, or where it runs on something else than each image
    once, as in a network that votes over noisy copies.
    """
    found = next((each for each in model.modules() if isinstance(each, Classifier)), None)
    if found is None:
        return logits_of(model, images, whose), None
    caught: list[Tensor] = []
    hook = found.head.register_forward_pre_hook(
        lambda _, inputs: caught.append(found.penultimate(inputs[0].detach()).float())
    )
    try:
        logits = logits_of(model, images, whose)
    finally:
        hook.remove()
    latents = torch.cat(caught) if caught else torch.empty(0)
    return logits, latents[:COMPARED] if len(latents) == len(logits) else None


def reactions(
    clean: tuple[Tensor, Tensor | None],
    stamped: tuple[Tensor, Tensor | None],
    tried: Tensor,
    stage: str,
) -> tuple[Metrics, Evidence]:
    """Compare what :func:`logits_and_latents` gave for clean images and for the same stamped, of those ``tried (N,)``.

    The metrics are means of the L2 distance, the evidence ``float32 (2, M)`` holds every image's L1 and L2 distance.
    """
    metrics: Metrics = {}
    evidence: Evidence = {}
    chosen = tried[:COMPARED]
    for layer, before, after in zip(("logit", "latent"), clean, stamped, strict=True):
        if before is None or after is None or not chosen.any():
            continue
        # A reform that needs gradients may have left its own in what came after it.
        moved = (after[: len(chosen)] - before[: len(chosen)])[chosen].detach().float()
        distances = torch.stack([moved.norm(1, dim=1), moved.norm(2, dim=1)])
        metrics[f"{stage}.{layer}_difference"] = Counted(distances[1].mean(), distances.shape[1])
        evidence[f"{stage}_{layer}_differences"] = to_array(distances)
    return metrics, evidence
