"""Where answers come from with a trigger and without: distances of attribution maps, and the maps themselves.

TrojanZoo, section 6.4 (RQ9), Figure 11 and Table 19: the L1 distance, divided by the image's size, between the Grad-CAM
maps of 100 clean images and of the same ones stamped, on the trojaned and on a benign model, of the images' own class
and of the target. Here: maps of the last stage as large as the image, each from 0 to 1; the benign model is the twin.
"""

import torch
from torch import Tensor

from gifthorse.core.classifier import Classifier, inference_batch
from gifthorse.core.images import Images
from gifthorse.inversion.attribution import as_heat, attribution_refusal, grad_cam
from gifthorse.inversion.frozen import freeze
from gifthorse.metrics.functional import Counted
from gifthorse.metrics.stamped import Evidence, Metrics, to_array

COMPARED = 100
"""Pairs of images whose maps are compared: the first that are stamped, but for those of the target class."""


def heat_differences(models: dict[str, Classifier], clean: Images, stamped: Tensor, targets: Tensor) -> Metrics:
    """Return, for each model by the scope of its metrics, how far the trigger moves the maps of both classes.

    ``stamped (N, C, H, W)`` in [0,1] are the ``clean`` images with the trigger, which should get ``targets (N,)``. A
    model whose last stage tells no places has no such metrics.
    """
    chosen, found = (clean.labels != targets).nonzero().squeeze(1)[:COMPARED], Metrics()
    pairs = clean.take(chosen).floats(), stamped[chosen]
    wanted = {"label": clean.labels[chosen], "target": targets[chosen]}
    for scope, model in models.items():
        if not len(chosen) or attribution_refusal(model, clean.shape, 1) is not None:
            continue
        frozen = freeze(model)
        for name, classes in wanted.items():
            before, after = (heat(frozen, pixels, classes) for pixels in pairs)
            found[f"{scope}.heat_difference_{name}"] = Counted(float((after - before).abs().mean()), len(chosen))
    return found


def heat_pictures(model: Classifier, **pictures: Tensor) -> Evidence:
    """Return by name where the model's answer on each of ``pictures (P, C, H, W)`` comes from, as grey pictures."""
    shape = next(iter(pictures.values())).shape
    if attribution_refusal(model, (shape[1], shape[2], shape[3]), 1) is not None:
        return Evidence()
    frozen = freeze(model)
    found = {name: heat(frozen, pixels).unsqueeze(1) for name, pixels in pictures.items() if len(pixels)}
    return {name: to_array((255 * maps).round().to(torch.uint8)) for name, maps in found.items()}


def heat(model: Classifier, pixels: Tensor, classes: Tensor | None = None) -> Tensor:
    """Return where the logits of ``classes (N,)``, or of the answers, come from: ``(N, H, W)`` from 0 to 1."""
    size, height, width = inference_batch(pixels.device), pixels.shape[2], pixels.shape[3]
    parts = pixels.split(size)
    asked = [None] * len(parts) if classes is None else list(classes.split(size))
    stage = model.stage_names[-1]
    maps = [grad_cam(model, part, stage, each)[0] for part, each in zip(parts, asked, strict=True)]
    return as_heat(torch.cat(maps), (height, width))
