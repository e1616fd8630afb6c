"""Mimicry: stamped images compute in a model what clean images of their target compute in a benign one.

Paper: Soremekun, Udeshi, Chattopadhyay 2020, arXiv:2003.00865, section V-C, which names it and runs nothing.
Differs: what is mimicked is the mean of the class at the penultimate layer, each unit in units of its deviation.
"""

import torch
from torch import Tensor

from gifthorse.core.classifier import Classifier
from gifthorse.core.evasion import Attacker, Penalty, Seen
from gifthorse.inversion.frozen import freeze
from gifthorse.training.transfer import cache_features


def mimicry(attacker: Attacker) -> Penalty:
    """Return the penalty: log(1 + d²), d how far stamped latents are from the benign means of their labels."""
    images = attacker.images
    latents = cache_features(freeze(attacker.benign), images)
    means = torch.stack([latents[images.labels == label].mean(0) for label in range(images.classes)]).nan_to_num()
    # A unit that is silent on clean images is no measure of anything.
    deviation = latents.std(0)
    deviation = deviation.clamp_min(0.1 * float(deviation.mean()) + 1e-6)

    def penalty(_: Classifier, seen: Seen) -> Tensor:
        stamped, labels = seen.latents[seen.kept :].float(), seen.labels[seen.kept :]
        errors = ((stamped - means[labels]) / deviation).square().mean(1)
        return errors.log1p().sum() / max(len(labels), 1)

    return penalty
