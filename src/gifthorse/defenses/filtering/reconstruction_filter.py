"""Reconstruction filter: an autoencoder of clean images renders badly what no clean image shows.

Paper: Salem et al. 2022 (dynamic backdoors), arXiv:2003.03675, section 4.9, where the distance is proposed and not run;
    Meng and Chen 2017 (MagNet), arXiv:1705.09064, section 4.2 (both scores; autoencoder and noise as in
    ``manifold_projection``).
Differs: one autoencoder, not several. The threshold is set on clean images that the autoencoder has not seen, half of
    the defender's, at the false positive rate of TrojanZoo's filters, 0.05: MagNet's 0.001 needs 1000 of them.
"""

import math
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from gifthorse.core.classifier import inference_batch
from gifthorse.core.defense import CleanImagesDefense
from gifthorse.core.images import Images
from gifthorse.core.outcomes import InputScreen
from gifthorse.core.progress import track
from gifthorse.core.seeds import generator
from gifthorse.core.views import Materials, ModelView
from gifthorse.inversion.frozen import freeze
from gifthorse.training.autoencoder import Autoencoding


class ReconstructionFilter(CleanImagesDefense[ModelView], Autoencoding):
    """Flags inputs far from their reconstruction, or that the model answers otherwise than that."""

    name = "reconstruction_filter"
    aliases = ("ae_distance_filter",)
    paper = "Salem et al. 2022, arXiv:2003.03675, section 4.9; Meng and Chen 2017, arXiv:1705.09064"
    variants = ("reconstruction_filter[power=2]", "reconstruction_filter[score=divergence]")
    family = "filtering"
    view = ModelView
    black_box = True

    score: Literal["distance", "divergence"] = Field(
        "distance", description="between input and reconstruction, or between the model's answers to both"
    )
    power: int = Field(1, ge=1, le=2, description="p of the distance, the mean of |x - reconstruction|^p")
    temperature: float = Field(10.0, gt=0, description="T of the Jensen-Shannon divergence between softmax(logits / T)")
    fpr: float = Field(0.05, gt=0, lt=1, description="false positive rate that the threshold is set for")
    calibration: float = Field(
        0.5, gt=0, lt=1, description="share of the clean images that set the threshold; the others train"
    )

    def skip(self, view: ModelView) -> str | None:
        """Ask for enough images that a threshold at the false positive rate can be told from the largest score."""
        needed = self.images_needed()
        if len(view.clean) >= needed:
            return None
        return f"needs {needed} clean images for a false positive rate of {self.fpr:g}; there are {len(view.clean)}"

    def images_needed(self) -> int:
        """Return how many clean images leave 1 / FPR to calibrate on, and one to train on."""
        count = math.ceil(1 / self.fpr)
        while self.calibrating(count) < 1 / self.fpr:
            count += 1
        return count

    def calibrating(self, count: int) -> int:
        """Return how many of so many clean images set the threshold."""
        return math.floor(self.calibration * count)

    def parts(self, clean: Images) -> tuple[Images, Images]:
        """Cut the clean images into those to train on and those to calibrate on, always in the same way."""
        order = torch.randperm(len(clean), generator=generator(0, self.name, "calibration")).to(clean.device)
        count = self.calibrating(len(clean))
        return clean.take(order[count:]), clean.take(order[:count])

    def prepare(self, materials: Materials, seed: int) -> dict[str, Tensor]:
        """Train the autoencoder, which depends on the images alone."""
        return self.train_autoencoder(self.parts(materials.clean)[0], seed)

    def preparation(self) -> dict[str, Any]:
        """Name the settings of the autoencoder, and of the images that it is trained on."""
        return self.model_dump(mode="json", include={*Autoencoding.model_fields, "calibration", "clean_share"})

    def defend(self, view: ModelView, seed: int) -> InputScreen:  # noqa: ARG002
        """Set the threshold on the images that the autoencoder has not seen."""
        reconstruct = self.autoencoder(view.prepared, view.shape[0], view.device)
        model = freeze(view.model)
        measure = self.distance if self.score == "distance" else self.divergence

        @torch.inference_mode()
        def score(pixels: Tensor) -> Tensor:
            parts = pixels.to(view.device).split(inference_batch(view.device))
            scored = track(parts, self.name, len(parts))
            return torch.cat([measure(part, reconstruct(part), model) for part in scored])

        clean = score(self.parts(view.clean)[1].floats())
        return InputScreen(score, float(clean.quantile(1 - self.fpr, interpolation="higher")))

    def distance(self, pixels: Tensor, reconstruction: Tensor, model: nn.Module) -> Tensor:  # noqa: ARG002
        """Return the mean of ``|x - x'|^p`` over pixels and colours ``(N,)``."""
        return (pixels - reconstruction).abs().pow(self.power).mean((1, 2, 3))

    def divergence(self, pixels: Tensor, reconstruction: Tensor, model: nn.Module) -> Tensor:
        """Return the Jensen-Shannon divergence ``(N,)`` between the softened answers to both."""
        first, second = ((model(each).float() / self.temperature).softmax(1) for each in (pixels, reconstruction))
        middle = (first + second) / 2
        gained: Tensor = torch.special.entr(middle) - (torch.special.entr(first) + torch.special.entr(second)) / 2
        return gained.sum(1)
