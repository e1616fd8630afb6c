"""Grad-CAM: which places of an image a model's answer comes from.

Paper: Selvaraju et al. 2017, arXiv:1610.02391, section 3, Equations 1 and 2.
Differs: nothing. The gradient is taken of the logits of a whole batch at once, each image's own, through what follows
    the stage alone.
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
    with torch.inference_mode():
        maps = model.stage(names[-stage], torch.zeros(1, *shape, device=model.device))
    if maps.shape[2:].numel() > 1:
        return None
    return f"the maps of stage {names[-stage]} have one place alone; an earlier stage (stage={stage + 1}) may have more"


def grad_cam(model: Classifier, pixels: Tensor, stage: str, labels: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Return Grad-CAM maps ``(N, H', W')`` from 0 at a stage, and logits ``(N, K)``, in one pass and half a way back.

    ``pixels (N, C, H, W)`` are in [0,1]; what is explained is the class of ``labels (N,)``, without these the class
    that the model gives. The model is frozen, in evaluation mode. May be called in inference mode; no gradient comes
    back.
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
        wanted = logits.argmax(1) if labels is None else labels
        (slopes,) = torch.autograd.grad(logits.gather(1, wanted.unsqueeze(1)).sum(), caught[-1])
    maps = (slopes.mean((2, 3), keepdim=True) * caught[-1].detach()).sum(1)
    return maps.clamp_min(0), logits.detach()


def as_heat(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Return maps ``(N, H', W')`` as large as the images, ``(N, H, W)``, each from 0 to 1; all 0 where it is flat."""
    heat = interpolate(maps.unsqueeze(1), size, mode="bilinear", align_corners=False).squeeze(1)
    lowest, highest = heat.amin((1, 2), keepdim=True), heat.amax((1, 2), keepdim=True)
    scaled: Tensor = (heat - lowest) / (highest - lowest).clamp_min(torch.finfo(heat.dtype).tiny)
    return scaled
