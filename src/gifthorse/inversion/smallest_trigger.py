"""Training against a search for small triggers: what reaches the target must not be smaller than the planted trigger.

Paper: none; an adaptive attack on Neural Cleanse (Wang et al. 2019), whose evidence is the norm of the target's mask.
Differs: a running search takes a step for every step of the training. Its trigger is trained under the images' own
    labels while it is smaller than the planted one, and the less the closer it comes to that size.
"""

from itertools import cycle

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from gifthorse.core.classifier import Classifier
from gifthorse.core.evasion import Attacker, Penalty, Seen
from gifthorse.core.networks import evaluating
from gifthorse.core.seeds import generator
from gifthorse.core.trigger import blend
from gifthorse.training.optimisers import adam

FAINT = -2.0
"""Where the mask starts, before its tanh: a mask that begins large may never come below the planted trigger's size."""
SHOWN = 32
"""Clean images of every mini-batch that carry the searched trigger."""


def smallest_trigger(attacker: Attacker, lr: float, seed: int) -> Penalty:
    """Return the penalty: the loss of clean images that carry the smallest trigger found so far for a target."""
    device, (channels, height, width) = attacker.images.device, attacker.images.shape
    random = generator(seed, "start", device=device)
    count = len(attacker.targets)
    raw = torch.rand(count, 1 + channels, height, width, generator=random, device=device) * 2 - 1
    raw[:, 0] = FAINT
    free, turn = raw.requires_grad_(), cycle(range(count))
    optimizer = adam([free], lr)

    def penalty(model: Classifier, seen: Seen) -> Tensor:
        place = next(turn)
        pixels, labels = seen.pixels[: seen.kept][:SHOWN].detach(), seen.labels[: seen.kept][:SHOWN]
        others = (labels != attacker.targets[place]).float()
        shown = free[place].tanh() / 2 + 0.5
        mask, pattern = shown[:1], shown[1:]
        with evaluating(model):
            logits = model(blend(pixels, mask, pattern, 0.0)).float()
        wanted = torch.full_like(labels, attacker.targets[place])
        reaching = (others * cross_entropy(logits, wanted, reduction="none")).sum() / others.sum().clamp_min(1)
        loss = reaching + mask.sum() / attacker.trigger_size
        # What the training's own backward pass adds to it afterwards is overwritten in the next step.
        (free.grad,) = torch.autograd.grad(loss, [free], retain_graph=True)
        resisting = (others * cross_entropy(logits, labels, reduction="none")).sum() / others.sum().clamp_min(1)
        smaller = (1 - mask.detach().sum() / attacker.trigger_size).clamp_min(0)
        optimizer.step()
        return smaller * resisting

    return penalty
