"""Invisible perturbations: one small change of all pixels is the trigger, regular, searched, or in the lowest bits.

Paper: AEGIS, section V-A (invisible static and invisible adversarial triggers in robust models, class 7, 30 % of the
    training images at the source's least intensity, after Zhong et al. 2020, arXiv:1808.10307); Rethinking the Trigger,
    arXiv:2004.04692, appendix E.2 (a universal perturbation as BadNets' trigger: perturbation=universal,wanted=away);
    DHBE, Table 1 (SIG, Barni et al. 2019, arXiv:1902.11237: perturbation=sinusoid,intensity=0.08; Steganograph, 2 bits,
    Li et al. 2019, arXiv:1909.02742: perturbation=steganography).
Differs: intensities are lost in print: 8/255. The static perturbation raises every second pixel of every second row.
    The universal one is found by signed gradient steps within the ball, not by DeepFool: towards the target, or away
    from the true class. Steganography hides noise that is drawn once, where Li et al. hide a text. Whoever trains
    robustly within a larger radius teaches the model to ignore the trigger. The rest as in planting/poisoning.py.
"""

import math
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import cross_entropy

from gifthorse.core.attack import Preparation
from gifthorse.core.classifier import Classifier
from gifthorse.core.errors import RequestError
from gifthorse.core.seeds import derive, generator
from gifthorse.core.task import Task
from gifthorse.core.trigger import Trigger
from gifthorse.planting.poisoning import PoisoningAttack
from gifthorse.planting.targets import OneTarget
from gifthorse.training.precision import fast_arithmetic
from gifthorse.triggers.low_bits import LowBits
from gifthorse.triggers.perturbation import Perturbation

SEEN = 128
FOUND = "perturbation"
"""A perturbation ``float32 (C, H, W)``, in pixel units of [0,1]."""


class UniversalPerturbation(Preparation):
    """Searches a perturbation that has the benign model answer as wanted on as many training images as possible."""

    name = "universal_perturbation"
    paper = "Rethinking the Trigger, arXiv:2004.04692, appendix E.2"

    intensity: float = Field(gt=0, le=1, description="largest change of a pixel, in pixel units of [0,1]")
    target: int | None = Field(ge=0, description="class that is wanted; null: any but the true one")
    search_steps: int = Field(ge=1, description="steps of the search, on 128 images each")

    def prepare(self, task: Task, benign: Classifier, seed: int) -> dict[str, Tensor]:
        """Return the perturbation."""
        model, images = benign.clone().requires_grad_(False), task.train
        random = generator(derive(seed, "invisible", "trigger"), "perturbation search", device=images.device)
        found = torch.zeros(images.shape, device=images.device)
        step, sign = 4 * self.intensity / self.search_steps, 1 if self.target is None else -1
        for _ in range(self.search_steps):
            drawn = torch.randint(len(images), (SEEN,), generator=random, device=images.device)
            chosen = images.take(drawn)
            labels = chosen.labels if self.target is None else torch.full_like(chosen.labels, self.target)
            found.requires_grad_()
            with fast_arithmetic(images.device):
                logits = model((chosen.floats() + found).clamp(0, 1))
            (gradient,) = torch.autograd.grad(cross_entropy(logits.float(), labels), [found])
            found = (found.detach() + sign * step * gradient.sign()).clamp(-self.intensity, self.intensity)
        return {FOUND: found}


class Invisible(OneTarget, PoisoningAttack):
    """Perturbs all pixels of training images a little, all images alike, and relabels them."""

    name = "invisible"
    aliases = ("invisible_perturbation",)
    paper = "AEGIS, section V-A; Zhong et al. 2020, arXiv:1808.10307"
    variants = (
        "invisible[perturbation=universal]",
        "invisible[perturbation=sinusoid,intensity=0.1,waves=3]",
        "invisible[perturbation=steganography,bits=5]",
    )

    poison_rate: float = Field(0.3, gt=0, lt=1, description="share of the images trained on that are stamped copies")
    perturbation: Literal["static", "universal", "sinusoid", "steganography"] = Field(
        "static",
        description="static: every second pixel brighter; universal: found on the benign model; sinusoid: waves; "
        "steganography: the lowest bits of every pixel are replaced by noise that is drawn once",
    )
    intensity: float = Field(8 / 255, gt=0, le=1, description="largest change of a pixel, in pixel units of [0,1]")
    wanted: Literal["target", "away"] = Field(
        "target", description="what a universal perturbation is found for: the target class, or any but the true one"
    )
    search_steps: int = Field(100, ge=1, description="steps of the search, on 128 images each (perturbation=universal)")
    waves: int = Field(6, ge=1, description="periods over the image's width (perturbation=sinusoid)")
    bits: int = Field(2, ge=1, le=8, description="lowest bits that are replaced (perturbation=steganography)")
    transparency: float = Field(0.0, ge=0, lt=1, description="share of the perturbation that is left out")

    def check(self, task: Task) -> None:
        """Refuse fields that the perturbation has no use for."""
        super().check(task)
        unused = "intensity" if self.perturbation == "steganography" else "bits"
        if getattr(self, unused) != type(self).model_fields[unused].default:
            raise RequestError(f"perturbation={self.perturbation} has no use for {unused}: leave it out")

    def preparation(self, task: Task) -> UniversalPerturbation | None:  # noqa: ARG002
        """Return the search for a universal perturbation, if that is asked for."""
        if self.perturbation != "universal":
            return None
        target = self.target if self.wanted == "target" else None
        return UniversalPerturbation(intensity=self.intensity, target=target, search_steps=self.search_steps)

    def make_trigger(self, task: Task, benign: Classifier, seed: int) -> Trigger:  # noqa: ARG002
        """Return the trigger; a universal perturbation was prepared."""
        if self.perturbation == "steganography":
            random = generator(seed, "pattern")
            hidden = torch.randint(2**self.bits, task.train.shape, generator=random, dtype=torch.uint8)
            return LowBits(hidden, self.bits, self.transparency)
        if self.perturbation == "universal":
            found = task.prepared[FOUND]
        elif self.perturbation == "sinusoid":
            phase = 2 * math.pi * self.waves * (torch.arange(task.train.shape[2]) + 0.5) / task.train.shape[2]
            found = (self.intensity * phase.sin()).expand(task.train.shape).contiguous()
        else:
            found = torch.zeros(task.train.shape)
            found[:, ::2, ::2] = self.intensity
        return Perturbation(found, self.transparency)
