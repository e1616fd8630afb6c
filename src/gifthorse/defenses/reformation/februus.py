"""Februus: take out of an input what its answer comes from, and paint the hole as clean images would have it.

Paper: Doan et al. 2020, arXiv:1908.03369 (Grad-CAM of the predicted class at the last convolution, mask above 0.7, mean
    pixel, completion network, every input is purified); Salem et al. 2022 (dynamic backdoors), arXiv:2003.03675,
    section 4.6.
Differs: the completion network is trained here on the defender's own clean images, see ``training/inpainting.py`` for
    what their code leaves open. Their code explains images in [0,1] to a model that was trained on others; here it sees
    what the model sees. A flat map masks nothing. The threshold is theirs, or fitted on the defender's clean images
    (``threshold=fitted``): the lowest that costs no more than ``max_accuracy_drop`` of the accuracy on these.
"""

from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from gifthorse.core.classifier import Classifier, inference_batch
from gifthorse.core.defense import CleanImagesDefense
from gifthorse.core.images import Images
from gifthorse.core.outcomes import CleanModel
from gifthorse.core.progress import track
from gifthorse.core.views import Materials, ModelView
from gifthorse.inversion.attribution import as_heat, attribution_refusal, grad_cam
from gifthorse.inversion.frozen import freeze
from gifthorse.training.inpainting import Completion, Inpainting, blend

THRESHOLDS = [step / 20 for step in range(1, 20)]
"""What is tried where the threshold is fitted."""


class Februus(CleanImagesDefense[ModelView], Inpainting):
    """Masks the region that explains an input's class and fills it by a network trained on clean images."""

    name = "februus"
    aliases = ("deepcleanse",)
    paper = "Doan et al. 2020, arXiv:1908.03369"
    variants = ("februus[inpainting=false]", "februus[threshold=fitted,adversarial_weight=0.0]")
    family = "reformation"
    view = ModelView

    stage: int = Field(1, ge=1, description="stage whose maps explain, counted from the last, which is 1")
    threshold: Annotated[float, Field(gt=0, le=1)] | Literal["fitted"] = Field(
        0.7,
        description="heat, of 1 at most, from which on a pixel is masked; fitted: the lowest that clean images allow",
    )
    max_accuracy_drop: float = Field(
        0.02, ge=0, le=1, description="accuracy that a fitted threshold may cost on the defender's clean images"
    )
    inpainting: bool = Field(True, description="paint what is masked; false: leave the mean pixel there")

    def skip(self, view: ModelView) -> str | None:
        """Ask for clean images and for a stage that tells places."""
        if not len(view.clean):
            return "needs clean images to learn what to fill holes with; there are none"
        return attribution_refusal(view.model, view.shape, self.stage)

    def prepare(self, materials: Materials, seed: int) -> dict[str, Tensor]:
        """Train the completion network, which depends on the images alone."""
        return self.train_inpainting(materials.clean, seed)

    def preparation(self) -> dict[str, Any] | None:
        """Name the settings of the completion network, and of the images that it is trained on."""
        wanted = {*Inpainting.model_fields, "clean_share"}
        return self.model_dump(mode="json", include=wanted) if self.inpainting else None

    def defend(self, view: ModelView, seed: int) -> CleanModel:  # noqa: ARG002
        """Put the purification in front of the model."""
        if self.inpainting:
            fill: Tensor | Completion = self.inpainting_network(view.prepared, view.shape[0], view.device)
        else:
            fill = view.clean.floats().mean((0, 2, 3)).view(1, -1, 1, 1)
        model = freeze(view.model)
        purify = Purification(model, model.stage_names[-self.stage], fill, THRESHOLDS[-1]).eval()
        purify.threshold = self.fitted(purify, view.clean) if self.threshold == "fitted" else self.threshold
        return CleanModel(view.model.behind(purify), purify)

    @torch.inference_mode()
    def fitted(self, purify: "Purification", clean: Images) -> float:
        """Return the lowest threshold that keeps accuracy on clean images; the highest where none does."""
        size = inference_batch(clean.device)
        right = torch.zeros(1 + len(THRESHOLDS), device=clean.device)
        for pixels, labels in track(clean.batches(size), "threshold", -(-len(clean) // size)):
            heat, logits = purify.explain(pixels)
            answers = [logits, *(purify.model(purify.without(pixels, heat, each)) for each in THRESHOLDS)]
            right += torch.stack([(each.argmax(1) == labels).sum() for each in answers])
        before, *after = (right / len(clean)).tolist()
        kept = [
            each
            for each, accuracy in zip(THRESHOLDS, after, strict=True)
            if accuracy >= before - self.max_accuracy_drop
        ]
        return min(kept, default=THRESHOLDS[-1])


class Purification(nn.Module):
    """Float pixels ``(N, C, H, W)`` in [0,1] to the like, without what explains the model's answer.

    ``fill`` is a completion network, or a colour ``(1, C, 1, 1)``. What is masked is no function that gradients could
    be taken of; what is left and what is painted is.
    """

    colour: Tensor

    def __init__(self, model: Classifier, stage: str, fill: Tensor | Completion, threshold: float):
        super().__init__()
        self.model, self.stage, self.threshold = model, stage, threshold
        self.network = fill if isinstance(fill, Completion) else None
        self.register_buffer("colour", fill.fill if isinstance(fill, Completion) else fill)

    def train(self, mode: bool = True) -> "Purification":  # noqa: ARG002
        """Stay in evaluation mode, whatever is trained behind it."""
        return super().train(False)

    def forward(self, pixels: Tensor) -> Tensor:
        """Purify every input."""
        return self.without(pixels, self.explain(pixels)[0], self.threshold)

    def explain(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Return the heat ``(N, 1, H, W)`` in [0,1] of the class that the model gives, and its logits ``(N, K)``."""
        maps, logits = grad_cam(self.model, pixels, self.stage)
        return as_heat(maps, (pixels.shape[2], pixels.shape[3])).unsqueeze(1), logits

    def without(self, pixels: Tensor, heat: Tensor, threshold: float) -> Tensor:
        """Return the pixels with those painted over whose heat reaches the threshold."""
        mask = (heat >= threshold).to(pixels.dtype)
        return self.network(pixels, mask) if self.network is not None else blend(pixels, self.colour, mask)
