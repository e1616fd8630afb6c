"""Attribution detector: what explains a stamped input's class lies elsewhere than in clean images of that class.

Paper: TrojanZoo, arXiv:2012.09302, section 6.4 (RQ9) and Table 19, where the L1 distance, divided by the image's size,
    between the Grad-CAM maps of clean and stamped inputs is measured and a detector is only suggested.
Differs: the screen is ours. A defender has no clean image that belongs to an input; its map, of the class that the
    model gives it and scaled to [0,1], is compared with the mean map of the defender's clean images of that class, or
    with that of all of them where none is. A clean image is compared with the mean of the others, so that the threshold
    is that of images not seen.
"""

import math

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import one_hot

from gifthorse.core.classifier import inference_batch
from gifthorse.core.defense import CleanImagesDefense
from gifthorse.core.outcomes import InputScreen
from gifthorse.core.progress import track
from gifthorse.core.views import ModelView
from gifthorse.inversion.attribution import as_heat, attribution_refusal, grad_cam
from gifthorse.inversion.frozen import freeze


class AttributionDetector(CleanImagesDefense[ModelView]):
    """Flags inputs whose attribution map is far from those of clean images of the same class."""

    name = "attribution_detector"
    paper = "TrojanZoo, arXiv:2012.09302, section 6.4"
    family = "filtering"
    view = ModelView

    stage: int = Field(1, ge=1, description="stage whose maps explain, counted from the last, which is 1")
    fpr: float = Field(0.05, gt=0, lt=1, description="false positive rate that the threshold is set for")

    def skip(self, view: ModelView) -> str | None:
        """Ask for a stage that tells places, and for enough clean images that the rate can be told from them."""
        needed = max(math.ceil(1 / self.fpr), 2)
        if len(view.clean) < needed:
            return f"needs {needed} clean images at fpr={self.fpr}; there are {len(view.clean)}"
        return attribution_refusal(view.model, view.shape, self.stage)

    def defend(self, view: ModelView, seed: int) -> InputScreen:  # noqa: ARG002
        """Average the maps of clean images class by class, and set the threshold."""
        model, size = freeze(view.model), (view.shape[1], view.shape[2])
        stage, batch = model.stage_names[-self.stage], inference_batch(view.device)

        def explained(pixels: Tensor) -> tuple[Tensor, Tensor]:
            maps, logits = grad_cam(model, pixels, stage)
            return as_heat(maps, size), logits.argmax(1)

        with torch.inference_mode():
            parts = track(view.clean.batches(batch), self.name, -(-len(view.clean) // batch))
            found = [explained(pixels) for pixels, _ in parts]
            heat, label = torch.cat([each for each, _ in found]), torch.cat([each for _, each in found])
            means = Means(heat, label, model.classes)
            clean = (heat - means.of(label, without=heat)).abs().mean((1, 2))

        @torch.inference_mode()
        def score(pixels: Tensor) -> Tensor:
            scores = []
            for part in pixels.to(view.device).split(batch):
                heat, label = explained(part)
                scores.append((heat - means.of(label)).abs().mean((1, 2)))
            return torch.cat(scores)

        return InputScreen(score, float(clean.quantile(1 - self.fpr, interpolation="higher")))


class Means:
    """Mean maps of classes, from maps ``(N, H, W)`` and the classes ``(N,)`` that they explain."""

    def __init__(self, heat: Tensor, label: Tensor, classes: int):
        member = one_hot(label, classes).to(heat.dtype)
        self.sums, self.counts = torch.einsum("nk,nhw->khw", member, heat), member.sum(0)
        self.sum, self.count = heat.sum(0), len(heat)

    def of(self, label: Tensor, without: Tensor | None = None) -> Tensor:
        """Return the mean map of each label's class ``(N, H, W)``, that of all where the class has none.

        ``without (N, H, W)`` are maps among those that the means are of, each to be left out of its own mean.
        """
        own, less = (0.0, 0) if without is None else (without, 1)
        counts = (self.counts[label] - less).view(-1, 1, 1)
        of_class = (self.sums[label] - own) / counts.clamp_min(1)
        return torch.where(counts > 0, of_class, (self.sum - own) / (self.count - less))
