"""STRIP: mix an input with clean images; a trigger keeps the prediction certain, so low entropy is suspicious.

Paper: Gao et al. 2019, arXiv:1902.06531, sections III and IV; TrojanZoo section 4.3 and Table 21 (equal weights, 64
    mixtures).
Differs: the mixture is TrojanZoo's, half of either image; the author's adds both as they are
    (``input_weight=1.0,overlay_weight=1.0,clip=false``; with clip=true the sum stays in [0,1]). Every input meets the
    same overlays (drawn once from the defender's images); the threshold is the empirical quantile of held-out clean
    scores, not a fitted normal distribution, whose tail is wrong when entropies are skewed. TrojanZoo's code flags both
    tails, at the stated rate each: at 0.05 its false positive rate is 0.10, as in its Table 23 (``tails=both``). Who
    trains against it sees mixtures under the stamped image's own label, TrojanZoo's (section 6.3) a faint trigger.
"""

import math
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from gifthorse.core.defense import CleanImagesDefense
from gifthorse.core.evasion import Attacker, Evasion
from gifthorse.core.images import to_floats
from gifthorse.core.outcomes import InputScreen
from gifthorse.core.progress import track
from gifthorse.core.seeds import generator
from gifthorse.core.views import ModelView
from gifthorse.inversion.blending import batches_to_blend, blended, entropy_of_blends
from gifthorse.inversion.frozen import freeze


class Strip(CleanImagesDefense[ModelView]):
    """Flags inputs whose prediction stays certain when mixed with clean images."""

    name = "strip"
    paper = "Gao et al. 2019, arXiv:1902.06531"
    variants = ("strip[input_weight=1.0,overlay_weight=1.0,clip=false]", "strip[tails=both]")
    family = "filtering"
    view = ModelView
    black_box = True
    offers = "decoys"

    overlays: int = Field(64, ge=1, description="clean images that every input is mixed with")
    input_weight: float = Field(0.5, gt=0, le=1, description="weight of the input in the mixture")
    overlay_weight: float = Field(0.5, gt=0, le=1, description="weight of the clean image in the mixture")
    clip: bool = Field(True, description="clip mixtures to [0,1] (matters when the weights sum to more than 1)")
    fpr: float = Field(0.05, gt=0, lt=1, description="false positive rate that the threshold is set for; in each tail")
    tails: Literal["low", "both"] = Field(
        "low", description="low: low entropy is suspicious; both: so is an entropy higher than that of clean images"
    )

    def skip(self, view: ModelView) -> str | None:
        """Ask for enough clean images to mix with and to set a threshold on."""
        needed = self.overlays + math.ceil(1 / self.fpr)
        return None if len(view.clean) >= needed else f"needs {needed} clean images; there are {len(view.clean)}"

    def defend(self, view: ModelView, seed: int) -> InputScreen:
        """Draw the overlays and set the threshold on the clean images that were not drawn."""
        order = torch.randperm(len(view.clean), generator=generator(seed, self.name)).to(view.device)
        overlays = to_floats(view.clean.pixels[order[: self.overlays]])
        unseen = to_floats(view.clean.pixels[order[self.overlays :]])
        model = freeze(view.model)

        @torch.inference_mode()
        def score(pixels: Tensor) -> Tensor:
            parts = batches_to_blend(pixels.to(view.device), overlays)
            return torch.cat([self._certainty(model, part, overlays) for part in track(parts, "strip", len(parts))])

        clean = score(unseen)
        high = clean.quantile(1 - self.fpr, interpolation="higher")
        if self.tails == "low":
            return InputScreen(score, threshold=float(high))
        low = clean.quantile(self.fpr, interpolation="lower")

        def outside(pixels: Tensor) -> Tensor:
            certainty = score(pixels)
            return torch.maximum(certainty - high, low - certainty)

        return InputScreen(outside, threshold=0.0)

    def evasion(self, attacker: Attacker, seed: int) -> Evasion:  # noqa: ARG002
        """Keep the trigger from working as it shows in a mixture (TrojanZoo, section 6.3).

        The paper trains on stamped images whose trigger is faint, under their own labels. What the method sees is a
        mixture, in which the image is as faint as its trigger: here it is that, as by the former alone the true
        positive rate stays what it was (1.0 on digits).
        """

        def decoy(stamped: Tensor, others: Tensor) -> Tensor:
            return blended(stamped, others, (self.input_weight, self.overlay_weight), clip=self.clip)

        return Evasion(decoy=decoy)

    def _certainty(self, model: nn.Module, pixels: Tensor, overlays: Tensor) -> Tensor:
        weights = (self.input_weight, self.overlay_weight)
        return -entropy_of_blends(model, pixels, overlays, weights, clip=self.clip)
