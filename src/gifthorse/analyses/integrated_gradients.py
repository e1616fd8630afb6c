"""Integrated gradients: what each pixel adds to a logit on the way from a black image.

Paper: Sundararajan et al. 2017, arXiv:1703.01365, section 3, equation 1, and section 5, equation 3; computed by
    captum. TrojanZoo (Pang et al. 2022, arXiv:2012.09302) compares maps of another kind in the same way, section 6.4.
Differs: of the logit, as other maps are, where the paper takes the probability. A pixel's value is the magnitude of
    the sum over its channels. The integral is captum's, a Gauss-Legendre quadrature of as many steps as captum takes by
    itself, where equation 3 is a Riemann sum.
"""

from importlib.util import find_spec

import torch
from pydantic import Field
from torch import Tensor

from gifthorse.analyses.attribution_maps import AttributionMaps
from gifthorse.analyses.pairs import at_once
from gifthorse.core.classifier import Classifier
from gifthorse.core.errors import RequestError
from gifthorse.core.task import Task


class IntegratedGradients(AttributionMaps):
    """Compares integrated gradients with the trigger and without, of two classes, on a model and its benign twin."""

    name = "integrated_gradients"
    paper = "Sundararajan et al. 2017, arXiv:1703.01365"

    steps: int = Field(50, ge=1, description="points of the path from black at which the gradient is taken")

    def check(self, model: Classifier, task: Task) -> None:
        """Ask for captum."""
        super().check(model, task)
        if find_spec("captum") is None:
            raise RequestError(f"{self.name} needs the package captum: pip install 'gifthorse[analysis]'")

    def attribute(self, model: Classifier, pixels: Tensor, labels: Tensor) -> Tensor:
        """Return magnitudes ``(L, N, H, W)``; as many images share a pass as elsewhere, whatever the steps."""
        from captum.attr import IntegratedGradients as Integrals

        integrals, size = Integrals(model), at_once(pixels)
        return torch.stack(
            [
                integrals.attribute(pixels, target=each, n_steps=self.steps, internal_batch_size=size).sum(1).abs()
                for each in labels
            ]
        )
