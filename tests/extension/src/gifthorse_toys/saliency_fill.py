"""Reforms every input: the pixels that a prediction hangs on most are filled with the mean of clean images.

Paper: none; a toy after Doan et al. 2020, arXiv:1908.03369 (Februus).
Differs: gradients of the pixels show where to fill, and the mean of clean images is what is filled in.
"""

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d

from gifthorse import DEFENSES, Classifier, CleanModel, Defense, ModelView


@DEFENSES.add
class SaliencyFill(Defense[ModelView]):
    """Fills the most salient window of every input before the model sees it."""

    name = "toy_saliency_fill"
    paper = "none; a toy"
    family = "reformation"
    view = ModelView

    size: int = Field(3, ge=1, le=9, description="side of the window that is filled, in pixels; odd")

    def skip(self, view: ModelView) -> str | None:
        """Ask for images to average."""
        return None if len(view.clean) else "needs clean images"

    def defend(self, view: ModelView, seed: int) -> CleanModel:
        """Put the filling in front of the model."""
        reform = Fill(view.model.clone(), view.clean.floats().mean(0), self.size)
        return CleanModel(nn.Sequential(reform, view.model.clone()).eval(), reform)


class Fill(nn.Module):
    """Replaces the window whose pixels have the largest gradients by ``mean (C, H, W)``."""

    def __init__(self, model: Classifier, mean: Tensor, size: int):
        super().__init__()
        self.model, self.mean, self.size = model, nn.Buffer(mean), size

    def forward(self, pixels: Tensor) -> Tensor:
        """Return ``(N, C, H, W)`` with one window of each filled."""
        with torch.inference_mode(False), torch.enable_grad():
            seen = pixels.clone().requires_grad_()
            (slope,) = torch.autograd.grad(self.model(seen).max(1).values.sum(), [seen])
        salient = avg_pool2d(slope.abs().sum(1, keepdim=True), self.size, stride=1, padding=self.size // 2)
        middle = salient.flatten(1).argmax(1)
        marked = torch.zeros_like(salient).flatten(1).scatter_(1, middle.unsqueeze(1), 1).view_as(salient)
        window = nn.functional.max_pool2d(marked, self.size, stride=1, padding=self.size // 2)
        return torch.where(window > 0, self.mean, pixels)
