"""Latent backdoor: stamped images get the target's latent code, so that the backdoor survives another head.

Paper: Yao et al. 2019 (CCS), as TrojanZoo re-implements it (sections 3.2 and 4.1; Table 20: penultimate layer, Adam
    0.1 with tanh, 100 iterations, 1000 samples per class, weight 0.5). With φ_t the mean latent code of the target
    class, a stamped image x ⊕ r costs Δ(g(x ⊕ r), φ_t), a mean squared error.
Differs: section 4.1 has Δ in place of cross-entropy, Table 20 a weight for it: as in the paper's code it is added to
    the cross-entropy of the batch, stamped copies included. Δ is the mean over those images of the batch that are not
    of the target class, all stamped; the code counts all, also the copies, stamped once more. Batch and stamped images
    go through the network in one pass, in the code in one each, which costs clean accuracy (planting/mixing.py says
    why). The table does not say how many images a step of the search sees: 128 of the samples, in the code batches of
    all; it starts from random pixels. φ_t is the benign model's, in evaluation mode, throughout. Where each latent sees
    a part of the image only, a trigger in the corner cannot reach φ_t: this wants a network with an embedding layer.
"""

import torch
from pydantic import Field
from torch import Tensor, nn

from gifthorse.core.classifier import Classifier
from gifthorse.core.images import Images, to_floats
from gifthorse.core.seeds import generator
from gifthorse.core.task import Task
from gifthorse.planting.adaptive import AdaptiveAttack
from gifthorse.planting.patches import PatchAttack
from gifthorse.planting.poisoning import Injection
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


class Latent(OneTarget, PatchAttack, AdaptiveAttack):
    """Moves the latents of stamped images to the target's, by the pattern first and by the weights then."""

    name = "latent"
    aliases = ("lb", "latent_backdoor")
    paper = "Yao et al. 2019, Latent Backdoor Attacks on Deep Neural Networks (CCS)"
    variants = ("latent[mixing=dataset,poison_rate=0.4]",)

    trigger_pattern: PatchPattern = Field("random", description="what the patch shows at first")
    pattern_lr: float = Field(0.1, gt=0, description="learning rate of Adam on the pattern, through a tanh")
    pattern_steps: int = Field(100, ge=1, description="steps on the pattern, on the benign model")
    samples: int = Field(1000, ge=1, description="images of each class that φ_t and the pattern are computed from")
    latent_weight: float = Field(0.5, gt=0, description="weight of the stamped images' latent error in training")

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
        centre = mean_latent(model, images, self.target)
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
        """Return cross-entropy plus the weighed distance to φ_t of all images, stamped, that are not of its class."""
        model, backdoor = injection.model, injection.backdoor
        images = some_of_each_class(injection.images, self.samples)
        centre = mean_latent(injection.benign.clone(), images, self.target)

        def loss(_: nn.Module, batch: Batch) -> Tensor:
            stamped, targets = backdoor.stamp(batch.pixels, batch.labels, injection.random)
            latents, logits = model.features_and_logits(torch.cat([batch.pixels, stamped]))
            count, attacked = len(stamped), targets != batch.labels
            errors = (latents[count:].float() - centre).square().mean(1)
            error = (attacked * errors).sum() / attacked.sum().clamp_min(1)
            return weighed_cross_entropy(logits[:count], batch) + self.latent_weight * error

        return loss if injection.adaptation is None else injection.adaptation.objective(loss)


def some_of_each_class(images: Images, count: int) -> Images:
    """Return the first ``count`` images of every class, or all that a class has."""
    return images.take(torch.cat([(images.labels == k).nonzero().squeeze(1)[:count] for k in range(images.classes)]))


def mean_latent(model: Classifier, images: Images, label: int) -> Tensor:
    """Return the mean latent ``(D,)`` of the images of a class."""
    return cache_features(model, images.take(images.labels == label)).mean(0)
