"""What a defense offers an attacker who knows it: method and public settings, never images, draws or fitted parts.

Paper: TrojanZoo (Pang et al. 2022, arXiv:2012.09302), section 6.3, RQ8 (a reform in front, an adversarial clean loss,
    faded triggers under their true labels, a penalty); Dynamic Backdoors (Salem et al. 2020, arXiv:2003.03675),
    sections 3.3 and 4.6 (any defense that can be modelled, as a discriminator).
Differs: nothing; what each defense offers is said in its own file.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from gifthorse.core.classifier import Classifier, predict
from gifthorse.core.errors import NotApplicableError
from gifthorse.core.images import Images
from gifthorse.core.pgd import Pgd
from gifthorse.core.seeds import generator

Offer = Literal["reform", "adversary", "decoys", "penalty", "discriminator"]
"""How a defense can be trained against; a discriminator is a penalty that a surrogate of the attacker's gives."""

OFFERS: Mapping[Offer, str] = {
    "reform": "stamped images are trained on as the defense's reform leaves them, too",
    "adversary": "clean images are trained on as the defense's adversary moves them",
    "decoys": "images with the trigger as faint as the defense shows it are trained on under their own labels",
    "penalty": "what the defense looks for costs, beside the loss",
    "discriminator": "the score of a copy of the defense, fitted to the attacker's own images, costs beside the loss",
}


@dataclass(frozen=True, eq=False)
class Attacker:
    """What an attacker has who trains against a defense: all of it the attacker's own.

    ``images`` are clean training images, ``benign`` is a benign model of the same task, ``targets`` are the classes
    that stamped images should get and ``trigger_size`` the number of pixels that the trigger changes. ``prepared`` is
    what the defense's own :meth:`gifthorse.Defense.prepare` made of the attacker's images (a surrogate).
    """

    images: Images
    benign: Classifier
    targets: tuple[int, ...]
    trigger_size: float
    prepared: Mapping[str, Tensor] = field(default_factory=dict)


class Seen(NamedTuple):
    """A mini-batch that a model in training has just seen: the first ``kept`` images are clean, the others stamped.

    ``pixels (N, C, H, W)`` in [0,1]; ``labels (N,)`` are what is trained, targets of the stamped ones; ``latents (N,
    D)`` of the penultimate layer and ``logits (N, K)`` can be differentiated.
    """

    pixels: Tensor
    labels: Tensor
    kept: int
    latents: Tensor
    logits: Tensor


Penalty = Callable[[Classifier, Seen], Tensor]
"""Returns a scalar, differentiable in the model's weights, that is the lower the less the defense would notice."""


@dataclass(frozen=True, eq=False)
class Evasion:
    """What is done about a defense in training; a part that is ``None`` changes nothing.

    ``reform`` maps float pixels ``(N, C, H, W)`` to such, differentiably. ``adversary`` is the search whose results
    clean images are replaced by. ``decoy`` makes of stamped images ``(N, C, H, W)`` and of as many other clean ones
    what the trigger must not work in. ``penalty`` is added to the loss; the model is in training mode, and must be in
    it again afterwards.
    """

    reform: Callable[[Tensor], Tensor] | None = None
    adversary: Pgd | None = None
    decoy: Callable[[Tensor, Tensor], Tensor] | None = None
    penalty: Penalty | None = None


FLOOR = 0.5
"""Share of its accuracy that a benign model keeps behind a surrogate that is good enough to train against."""
LOOKED_AT = 500


def check_reform(attacker: Attacker, reform: Callable[[Tensor], Tensor], whose: str) -> None:
    """Raise :class:`NotApplicableError` where a surrogate's reform leaves too little of the attacker's own images."""
    order = torch.randperm(len(attacker.images), generator=generator(0, "looked at")).to(attacker.images.device)
    images = attacker.images.take(order[:LOOKED_AT])
    with torch.inference_mode():
        reformed = reform(images.floats())
    before, after = (
        float((predict(attacker.benign, shown).argmax(1) == images.labels).float().mean())
        for shown in (images, reformed)
    )
    if after < FLOOR * before:
        raise NotApplicableError(
            f"the surrogate of {whose} is too poor to train against: behind it the benign model's accuracy on the "
            f"attacker's own images falls from {before:.0%} to {after:.0%}; it needs more images or epochs"
        )
