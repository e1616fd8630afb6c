"""Adversarial embedding: a discriminator is kept from telling stamped from clean images by their latents.

Paper: Tan and Shokri 2020, arXiv:1905.13409, as TrojanZoo re-implements it (section 4.1, in the manner of GANs, whose
    Algorithm 1 has one step of the discriminator for each of the other; Table 20: weight λ = 0.1, learning rate 1e-3).
Differs: the discriminator is the one that is published as code (hidden layers of 256 and 128 units behind Gaussian
    noise) without its batch normalisation, with Adam. It compares stamped images with clean images of the target class
    only, both sides weighing the same: against all clean images the class alone would give stamped ones away. The
    classifier minimises the discriminator's loss under flipped truth instead of maximising it under the right one,
    which is unbounded. Latents are divided by their standard deviation first: shrinking them hides nothing.
    TrojanZoo's code trains ten epochs without the discriminator, then passes it 100 times over a fixed sample before
    every epoch and leaves it as it is within: at CIFAR-10's size two steps for each of the classifier's. On digits that
    left the classifier at chance. There one step per batch hides little whatever λ, two little more, ten much
    (docs/measurements.md, "Attacks on the latents"): the laptop profile has ten. What is hidden must be read from a
    fresh probe (``metrics.functional.separability``), not from this discriminator; where the penultimate layer is
    pooled features, without an embedding layer, expect less.
"""

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from gifthorse.core.seeds import generator, isolated
from gifthorse.core.task import Task
from gifthorse.planting.patches import PatchAttack
from gifthorse.planting.poisoning import Injection, PoisoningAttack
from gifthorse.planting.targets import OneTarget
from gifthorse.training.loop import Batch, Objective, weighed_cross_entropy
from gifthorse.training.optimisers import adam


class AdversarialEmbedding(OneTarget, PatchAttack, PoisoningAttack):
    """Trains the classifier against a discriminator that looks for the trigger in its latents."""

    name = "adversarial_embedding"
    aliases = ("abe", "adversarial_backdoor_embedding")
    paper = "Tan and Shokri 2020, arXiv:1905.13409"
    variants = ("adversarial_embedding[mixing=loss]",)

    discriminator_weight: float = Field(0.1, gt=0, description="λ: weight of fooling the discriminator")
    discriminator_lr: float = Field(1e-3, gt=0, description="learning rate of the discriminator's Adam")
    discriminator_steps: int = Field(1, ge=1, description="steps of the discriminator for every one of the classifier")
    discriminator_noise: float = Field(
        1.0, ge=0, description="standard deviation of the noise that the discriminator sees, in units of the latents'"
    )

    @property
    def directs_training(self) -> bool:
        """Whether training has a loss of its own: always."""
        return True

    def check(self, task: Task) -> None:
        """Refuse a training set without an image of the target class: stamped ones could not be told from any."""
        super().check(task)
        self.check_target_images(task)

    def objective(self, injection: Injection) -> Objective:
        """Return cross-entropy plus λ times the discriminator's loss under flipped truth; each call trains it first."""
        model = injection.model
        random = generator(injection.seed, "discriminator's noise", device=injection.images.device)
        with isolated(injection.seed, "discriminator"):
            discriminator = Discriminator(model.head_weight.shape[1], self.discriminator_noise, random).to(model.device)
        optimizer = adam(discriminator.parameters(), lr=self.discriminator_lr)

        def loss(_: nn.Module, batch: Batch) -> Tensor:
            latents, logits = model.features_and_logits(batch.pixels)
            stamped, weights = balance(batch, self.target)
            with torch.autocast(latents.device.type, enabled=False):
                latents = latents.float()
                latents = latents / latents.detach().std().clamp_min(1e-6)
                for _step in range(self.discriminator_steps):
                    learn(discriminator, optimizer, latents, stamped, weights)
                fooled = discriminator.loss(latents, 1 - stamped, weights)
            return weighed_cross_entropy(logits, batch) + self.discriminator_weight * fooled

        return loss


class Discriminator(nn.Module):
    """Says of latents ``(N, D)`` whether their images are stamped: logits ``(N,)``, high for yes."""

    def __init__(self, units: int, noise: float, random: torch.Generator):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(units, 256), nn.LeakyReLU(0.2), nn.Linear(256, 128), nn.LeakyReLU(0.2), nn.Linear(128, 1)
        )
        self.noise, self.random = noise, random

    def forward(self, latents: Tensor) -> Tensor:
        """Return the logits, of latents with fresh noise on them: so it cannot learn single images by heart."""
        noise = torch.randn(latents.shape, generator=self.random, device=latents.device)
        logits: Tensor = self.layers(latents + self.noise * noise).squeeze(1)
        return logits

    def loss(self, latents: Tensor, truth: Tensor, weights: Tensor) -> Tensor:
        """Return the weighed sum of the binary cross-entropies with ``truth (N,)`` in {0,1}."""
        return binary_cross_entropy_with_logits(self(latents), truth, weight=weights, reduction="sum")


def learn(
    discriminator: Discriminator, optimizer: torch.optim.Optimizer, latents: Tensor, stamped: Tensor, weights: Tensor
) -> None:
    """Take a step of the discriminator towards the truth; no gradient reaches what the latents were computed from."""
    discriminator.requires_grad_(True)
    optimizer.zero_grad()
    discriminator.loss(latents.detach(), stamped, weights).backward()
    optimizer.step()
    discriminator.requires_grad_(False)


def balance(batch: Batch, target: int) -> tuple[Tensor, Tensor]:
    """Return which images are stamped, ``float (N,)``, and what each weighs in the discriminator's loss.

    The stamped ones and the clean ones of the target class weigh a half each, all others nothing; a batch that has
    only one of the two kinds weighs nothing.
    """
    clean, stamped = batch.shares()
    clean = clean * (batch.labels == target)
    both = clean.sum().clamp_min(1e-12), stamped.sum().clamp_min(1e-12)
    present = clean.any() & stamped.any()
    return stamped.sign(), present * (clean / both[0] + stamped / both[1]) / 2
