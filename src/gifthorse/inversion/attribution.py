"""Grad-CAM and saliency: which places of an image a model's answer comes from.

Paper: Selvaraju et al. 2017, arXiv:1610.02391, section 3, Equations 1 and 2; saliency: Simonyan et al. 2013,
    arXiv:1312.6034, section 3.1.
Differs: nothing. The gradient is taken of the logits of a whole batch at once, each image's own; for Grad-CAM through
    what follows the stage alone.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from gifthorse.core.classifier import Classifier


def attribution_refusal(model: Classifier, shape: tuple[int, int, int], stage: int) -> str | None:
    """Return one sentence why the maps of a stage, counted from the last, tell no places, or ``None``."""
    names = model.stage_names
    if not names:
        return "needs the stages of the network, to explain answers by their maps; none are known"
    if stage > len(names):
        return f"stage={stage} is before the first of {len(names)} stages"
    if tells_places(model, shape, names[-stage]):
        return None
    return f"the maps of stage {names[-stage]} have one place alone; an earlier stage (stage={stage + 1}) may have more"


@torch.inference_mode()
def tells_places(model: Classifier, shape: tuple[int, int, int], stage: str) -> bool:
    """Tell whether the maps of a stage have more than one place, for images of ``shape`` (channels, height, width)."""
    return model.stage(stage, torch.zeros(1, *shape, device=model.device)).shape[2:].numel() > 1


def grad_cam(model: Classifier, pixels: Tensor, stage: str, labels: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Return Grad-CAM maps ``(N, H', W')`` from 0 at a stage, and logits ``(N, K)``, in one pass and half a way back.

    ``pixels (N, C, H, W)`` are in [0,1]; what is explained is the class of ``labels (N,)``, without these the class
    that the model gives. Of several classes of each image, ``labels (L, N)``, the maps are ``(L, N, H', W')``, still in
    one pass. The model is frozen, in evaluation mode. May be called in inference mode; no gradient comes back.
    """
    caught: list[Tensor] = []

    def cut(_: nn.Module, __: object, output: Tensor) -> Tensor:
        caught.append(output.detach().requires_grad_())
        return caught[-1].clone()  # what follows may work in place, which a leaf does not allow

    with torch.inference_mode(False), torch.enable_grad():
        hook = model.network.get_submodule(stage).register_forward_hook(cut)
        try:
            logits = model(pixels.detach().clone())
        finally:
            hook.remove()
        found = slopes(logits, logits.argmax(1) if labels is None else labels, caught[-1])
    maps = (found.mean((-2, -1), keepdim=True) * caught[-1].detach()).sum(-3)
    return maps.clamp_min(0), logits.detach()


def saliency(model: Classifier, pixels: Tensor, labels: Tensor) -> Tensor:
    """Return saliency maps ``(N, H, W)`` from 0: how strongly each pixel moves a logit.

    That is the magnitude of the logit's derivative, the largest over channels. ``pixels (N, C, H, W)`` are in [0,1],
    ``labels (N,)`` are the logits' classes; of several, ``(L, N)``, the maps are ``(L, N, H, W)``. The model is
    frozen, in evaluation mode. May be called in inference mode; no gradient comes back.
    """
    with torch.inference_mode(False), torch.enable_grad():
        shown = pixels.detach().clone().requires_grad_()
        return slopes(model(shown), labels, shown).abs().amax(-3)


def slopes(logits: Tensor, labels: Tensor, at: Tensor) -> Tensor:
    """Return the derivative of each image's logit of its label by ``at (N, ...)``: ``(N, ...)``, or ``(L, N, ...)``.

    ``logits (N, K)`` were computed from ``at``; of ``labels (N,)`` there is one for each image, of ``(L, N)`` several.
    """
    asked = labels.clone().view(-1, len(logits), 1)  # made in inference mode they could not be kept for the way back
    found = [
        torch.autograd.grad(logits.gather(1, each).sum(), at, retain_graph=count < len(asked))[0]
        for count, each in enumerate(asked, 1)
    ]
    return torch.stack(found).view(*labels.shape, *at.shape[1:])


def as_heat(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Return maps ``(N, H', W')`` as large as the images, ``(N, H, W)``, each from 0 to 1; all 0 where it is flat."""
    heat = interpolate(maps.unsqueeze(1), size, mode="bilinear", align_corners=False).squeeze(1)
    lowest, highest = heat.amin((1, 2), keepdim=True), heat.amax((1, 2), keepdim=True)
    scaled: Tensor = (heat - lowest) / (highest - lowest).clamp_min(torch.finfo(heat.dtype).tiny)
    return scaled
