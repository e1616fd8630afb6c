"""Latent backdoor: stamped images get the target's latent code, so that the backdoor survives another head.

Paper: Yao et al. 2019 (CCS), as TrojanZoo re-implements it (sections 3.2 and 4.1; Table 20: penultimate layer, Adam
    0.1 with tanh, 100 iterations, 1000 samples per class, weight 0.5). With φ_t the mean latent code of the target
    class, a stamped image x ⊕ r costs Δ(g(x ⊕ r), φ_t), a mean squared error.
Differs: section 4.1 has Δ in place of cross-entropy, Table 20 a weight for it: here it is added to the cross-entropy
    of all images, stamped ones too, without which the backdoor is weak when transparent and lost when all layers are
    tuned. The table does not say how many images an iteration sees: 128 of the samples; the search starts from random
    pixels. φ_t is the benign model's, in evaluation mode, throughout. The pull of an error averaged over the units
    falls with their number; ``latent_error=relative`` divides it by the clean latents' mean squared distance to φ_t,
    so that a weight means the same for every network; the laptop profile has 2 or 5. Where each latent sees only a
    part of the image, a trigger in the corner cannot reach φ_t: this wants a network with an embedding layer.
"""

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from gifthorse.core.classifier import Classifier
from gifthorse.core.images import Images, to_floats
from gifthorse.core.seeds import generator
from gifthorse.core.task import Task
from gifthorse.planting.patches import PatchAttack
from gifthorse.planting.poisoning import Injection, PoisoningAttack
from gifthorse.planting.targets import OneTarget
from gifthorse.training.loop import Batch, Objective, weighed_cross_entropy
from gifthorse.training.optimisers import adam
from gifthorse.training.precision import fast_arithmetic
from gifthorse.training.transfer import cache_features
from gifthorse.triggers.patch import PatchPattern
from gifthorse.triggers.pattern import PatternTrigger

SEEN = 128
EDGE = 0.999
"""Patterns are kept this far inside [0,1] before tanh is inverted, which has no gradient at its ends."""


class Latent(OneTarget, PatchAttack, PoisoningAttack):
    """Moves the latents of stamped images to the target's, by the pattern first and by the weights then."""

    name = "latent"
    aliases = ("lb", "latent_backdoor")
    paper = "Yao et al. 2019, Latent Backdoor Attacks on Deep Neural Networks (CCS)"
    variants = ("latent[latent_error=mean,mixing=dataset,poison_rate=0.4]",)

    trigger_pattern: PatchPattern = Field("random", description="what the patch shows at first")
    pattern_lr: float = Field(0.1, gt=0, description="learning rate of Adam on the pattern, through a tanh")
    pattern_steps: int = Field(100, ge=1, description="steps on the pattern, on the benign model")
    samples: int = Field(1000, ge=1, description="images of each class that φ_t and the pattern are computed from")
    latent_weight: float = Field(0.5, gt=0, description="weight of the stamped images' latent error in training")
    latent_error: Literal["mean", "relative"] = Field(
        "mean",
        description="mean: squared error averaged over the units; relative: that, divided by the same of clean images",
    )

    @property
    def directs_training(self) -> bool:
        """Whether training has a loss of its own: always."""
        return True

    def check(self, task: Task) -> None:
        """Refuse a training set without an image of the target class: it has no φ_t."""
        super().check(task)
        self.check_target_images(task)

    def make_trigger(self, task: Task, benign: Classifier, seed: int) -> PatternTrigger:
        """Return the trigger whose pattern brings the benign model's latents of stamped images closest to φ_t."""
        trigger, model = self.initial_trigger(task, seed).to(task.train.device), benign.clone()
        images = some_of_each_class(task.train, self.samples)
        centre, _ = latent_centre(model, images, self.target)
        sources = images.take(images.labels != self.target)
        random = generator(seed, "pattern search", device=images.device)
        free = torch.atanh(EDGE * (2 * trigger.pattern - 1)).requires_grad_()
        optimizer = adam([free], lr=self.pattern_lr)
        for _ in range(self.pattern_steps):
            chosen = torch.randint(len(sources), (SEEN,), generator=random, device=images.device)
            stamped = trigger.embed_pattern(to_floats(sources.pixels[chosen]), free.tanh() / 2 + 0.5, random)
            with fast_arithmetic(images.device):
                latents = model.features(stamped)
            (free.grad,) = torch.autograd.grad((latents.float() - centre).square().mean(), [free])
            optimizer.step()
        trigger.show(free.detach().tanh() / 2 + 0.5)
        return trigger

    def objective(self, injection: Injection) -> Objective:
        """Return cross-entropy plus the weighed distance of stamped images' latents to φ_t."""
        model = injection.model
        images = some_of_each_class(injection.images, self.samples)
        centre, spread = latent_centre(injection.benign.clone(), images, self.target)
        unit = spread if self.latent_error == "relative" else 1.0

        def loss(_: nn.Module, batch: Batch) -> Tensor:
            latents, logits = model.features_and_logits(batch.pixels)
            errors = (latents.float() - centre).square().mean(1) / unit
            stamped_error = (batch.shares()[1] * errors).sum()
            return weighed_cross_entropy(logits, batch) + self.latent_weight * stamped_error

        return loss


def some_of_each_class(images: Images, count: int) -> Images:
    """Return the first ``count`` images of every class, or all that a class has."""
    return images.take(torch.cat([(images.labels == k).nonzero().squeeze(1)[:count] for k in range(images.classes)]))


def latent_centre(model: Classifier, images: Images, target: int) -> tuple[Tensor, Tensor]:
    """Return φ_t ``(D,)``, the mean latent of the target class, and all latents' mean squared distance to it, ``()``.

    The distance is averaged over the units as well.
    """
    latents = cache_features(model, images)
    centre = latents[images.labels == target].mean(0)
    return centre, (latents - centre).square().mean()
