"""How active the units of a network's layers are, one pass for all layers."""

import torch
from torch import Tensor

from gifthorse.core.classifier import Classifier, inference_batch
from gifthorse.core.images import Images, to_floats
from gifthorse.core.networks import evaluating

PENULTIMATE = "penultimate layer"
"""What the head receives, by what reports call it."""


@torch.no_grad()
def activity(model: Classifier, images: Images) -> dict[str, Tensor]:
    """Return activities ``float32 (N, C)`` of every stage's channels, means over places, and of the penultimate layer.

    They are by name, first to last, :data:`PENULTIMATE` the last; the model is left as it was, whatever mode it is in.
    """
    received: list[Tensor] = []
    hook = model.head.register_forward_hook(lambda _, inputs, __: received.append(inputs[0]))
    parts: list[list[Tensor]] = []
    try:
        with evaluating(model):
            for pixels in images.pixels.split(inference_batch(images.device)):
                stages, _ = model.stages_and_logits(to_floats(pixels))
                means = [each.float().flatten(2).mean(2) for each in stages]
                parts.append([*means, model.penultimate(received.pop()).float()])
    finally:
        hook.remove()
    names = (*model.stage_names, PENULTIMATE)
    return {name: torch.cat(layer) for name, layer in zip(names, zip(*parts, strict=True), strict=True)}
