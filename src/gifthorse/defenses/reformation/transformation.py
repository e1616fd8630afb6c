"""Transformation: show the model another image of the same thing, in which the trigger is no longer what it was.

Paper: Li et al. 2020, "Rethinking the Trigger of Backdoor Attack", arXiv:2004.04692, Definition 3, section 5.1 and
    appendix D; Salem et al. 2022, "Dynamic Backdoor Attacks", arXiv:2003.03675, section 4.9 (resize, crop).
Differs: random numbers are drawn from the image's own pixels and the seed, so that an image is treated the same alone
    and in a batch; their distribution over images is the papers'. Which transformations a compound one is made of is
    left open by the paper: by default those of its enhanced attack. Several votes, averaged as probabilities, are ours.
    What each transformation does differently is said in :mod:`gifthorse.transformations`.
"""

import math
from abc import ABC, abstractmethod
from typing import Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from gifthorse.core.classifier import Classifier, inference_batch
from gifthorse.core.defense import Defense
from gifthorse.core.evasion import Attacker, Evasion
from gifthorse.core.outcomes import CleanModel
from gifthorse.core.seeds import derive, generator
from gifthorse.core.transformation import Transformation, one_after_the_other, random_shares, unfit
from gifthorse.core.views import DataFreeView
from gifthorse.inversion.frozen import freeze
from gifthorse.transformations import appearance, spatial


class _Transforming(Defense[DataFreeView]):
    """Shows the model what transformations make of an input."""

    family = "reformation"
    view = DataFreeView
    black_box = True
    offers = "reform"

    @abstractmethod
    def steps(self) -> tuple[Transformation, ...]:
        """Return the transformations, one after the other."""

    def skip(self, view: DataFreeView) -> str | None:
        """Say which transformation these images do not suit."""
        return unfit(self.steps(), view.shape)

    def evasion_refusal(self, model: Classifier, shape: tuple[int, int, int]) -> str | None:  # noqa: ARG002
        """Say which transformation these images do not suit."""
        return unfit(self.steps(), shape)

    def evasion(self, attacker: Attacker, seed: int) -> Evasion:
        """Put the transformations in front, by draws of the attacker's own."""
        steps, random = self.steps(), generator(seed, "transformation", device=attacker.images.device)

        def reform(pixels: Tensor) -> Tensor:
            return one_after_the_other(steps, pixels, random_shares(steps, pixels, 0, generator=random).squeeze(1))

        return Evasion(reform=reform)


class CompoundTransformation(_Transforming):
    """Transforms every input, in one way after the other, before the model sees it; once, or several times to vote."""

    name = "transformation"
    paper = "Li et al. 2020, arXiv:2004.04692, Definition 3"
    variants = ("transformation[transforms=[crop,color_contrast],votes=3]",)

    transforms: tuple[Transformation, ...] = Field(
        ("flip", "shrinkpad"),  # type: ignore[arg-type]
        min_length=1,
        description="transformations, one after the other",
    )
    votes: int = Field(1, ge=1, description="times that an input is transformed anew; the mean probability answers")

    @model_validator(mode="after")
    def _votes_differ(self) -> Self:
        if self.votes > 1 and not any(each.draws((3, 32, 32)) for each in self.transforms):
            raise ValueError(f"votes={self.votes} of nothing random would all be the same")
        return self

    def steps(self) -> tuple[Transformation, ...]:
        """Return the transformations."""
        return self.transforms

    def defend(self, view: DataFreeView, seed: int) -> CleanModel:
        """Put the transformations in front of the model."""
        reform = _Reform(self.transforms, derive(seed, self.name))
        if self.votes > 1:
            return CleanModel(_Voting(freeze(view.model), reform, self.votes).eval(), reform)
        return CleanModel(view.model.behind(reform), reform)


class _OneTransformation(_Transforming, Transformation, ABC):
    """A transformation that is a defense by itself."""

    def steps(self) -> tuple[Transformation, ...]:
        """Return the transformation itself."""
        return (self,)

    def defend(self, view: DataFreeView, seed: int) -> CleanModel:
        """Put the transformation in front of the model."""
        reform = _Reform((self,), derive(seed, self.name))
        return CleanModel(view.model.behind(reform), reform)


class Flip(_OneTransformation, spatial.Flip):
    """Mirrors every input before the model sees it."""


class ShrinkPad(_OneTransformation, spatial.ShrinkPad):
    """Shrinks every input and pads it back at a random place before the model sees it."""


class Resize(_OneTransformation, spatial.Resize):
    """Makes every input half as large and as large again before the model sees it."""


class Crop(_OneTransformation, spatial.Crop):
    """Pads every input with black and cuts a random window out of it before the model sees it."""


class GaussianNoise(_OneTransformation, appearance.GaussianNoise):
    """Adds Gaussian noise to every input before the model sees it."""


class Hue(_OneTransformation, appearance.Hue):
    """Turns the hue of every input before the model sees it."""


class Contrast(_OneTransformation, appearance.Contrast):
    """Changes the contrast of every input before the model sees it."""


class Brightness(_OneTransformation, appearance.Brightness):
    """Changes the brightness of every input before the model sees it."""


class Saturation(_OneTransformation, appearance.Saturation):
    """Changes the saturation of every input before the model sees it."""


class _Reform(nn.Module):
    def __init__(self, steps: tuple[Transformation, ...], seed: int):
        super().__init__()
        self.steps, self.seed = steps, seed

    def shares(self, pixels: Tensor, times: int = 1) -> Tensor:
        return random_shares(self.steps, pixels, self.seed, times)

    def forward(self, pixels: Tensor) -> Tensor:
        return one_after_the_other(self.steps, pixels, self.shares(pixels).squeeze(1))


class _Voting(nn.Module):
    """The log of the mean probability over an input transformed anew so many times."""

    def __init__(self, model: Classifier, reform: _Reform, votes: int):
        super().__init__()
        self.model, self.reform, self.votes = model, reform, votes

    def forward(self, pixels: Tensor) -> Tensor:
        """Return ``(N, K)``, in passes of as many copies as keep the device busy."""
        size = inference_batch(pixels.device)
        return torch.cat([self._vote(part, max(size // len(part), 1)) for part in pixels.split(size)])

    def _vote(self, pixels: Tensor, copies: int) -> Tensor:
        parts = []
        for shares in self.reform.shares(pixels, self.votes).split(copies, 1):
            repeated = pixels.repeat_interleave(shares.shape[1], 0)
            shown = one_after_the_other(self.reform.steps, repeated, shares.flatten(0, 1))
            log_probability = self.model(shown.contiguous(memory_format=torch.channels_last)).float().log_softmax(1)
            parts.append(log_probability.unflatten(0, (len(pixels), -1)).logsumexp(1))
        return torch.stack(parts).logsumexp(0) - math.log(self.votes)
