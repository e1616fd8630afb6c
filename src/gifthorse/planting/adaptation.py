"""What training against defenses makes of mini-batches and of the loss.

Paper: TrojanZoo (Pang et al. 2022, arXiv:2012.09302), section 6.3, RQ8.
Differs: see :mod:`gifthorse.planting.adaptive`.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from gifthorse.core.classifier import Classifier
from gifthorse.core.evasion import Evasion, Seen
from gifthorse.core.trojan import Backdoor, Stamped
from gifthorse.planting.mixing import BatchMixing, LossMixing
from gifthorse.training.adversarial import perturb
from gifthorse.training.loop import Batch, Mix, Objective, classification_loss, weighed_cross_entropy


class Adaptation:
    """What training against defenses makes of mini-batches and of the loss; made once for a training."""

    def __init__(
        self,
        evasions: Sequence[Evasion],
        model: Classifier,
        backdoor: Backdoor,
        share: float,
        weight: float,
        random: torch.Generator,
    ):
        self.model, self.backdoor, self.share, self.weight, self.random = model, backdoor, share, weight, random
        self.mixes = False
        self.reforms = tuple(each.reform for each in evasions if each.reform is not None)
        self.decoys = tuple(each.decoy for each in evasions if each.decoy is not None)
        self.penalties = tuple(each.penalty for each in evasions if each.penalty is not None)
        self.adversary = next((each.adversary for each in evasions if each.adversary is not None), None)
        self.owed, self.turn, self.shown, self.batches = 0.0, 0, 0, 0

    def mix(self, strategy: BatchMixing | LossMixing) -> Mix:
        """Return what makes of a mini-batch the one that is trained on; ``strategy`` adds the stamped images."""
        strategy.show, self.mixes = self._counted(strategy.show), True

        def adapted(batch: Batch) -> Batch:
            self.shown = 0
            mixed = strategy(batch)
            if not self.decoys and self.adversary is None:
                return mixed
            kept = len(mixed.labels) - self.shown
            parts = [mixed.pixels[:kept].detach(), mixed.pixels[kept:]]
            if self.decoys:
                decoy = self.decoys[self.batches % len(self.decoys)]
                parts[0] = self._with_decoys(parts[0], mixed.labels[:kept], decoy)
                self.batches += 1
            if self.adversary is not None:
                parts[0] = perturb(self.model, parts[0], mixed.labels[:kept], self.adversary, self.random)
            return mixed._replace(pixels=torch.cat(parts))

        return adapted

    def objective(self, base: Objective) -> Objective:
        """Return the loss with the penalties; they share the pass of cross-entropy, and have one of their own else."""
        if not self.penalties:
            return base

        def loss(passes: nn.Module, batch: Batch) -> Tensor:
            latents, logits = self.model.features_and_logits(batch.pixels)
            plain = base is classification_loss
            value = weighed_cross_entropy(logits, batch) if plain else base(passes, batch)
            seen = self._seen(batch, latents, logits)
            for penalty in self.penalties:
                value = value + self.weight * penalty(self.model, seen)
            return value

        return loss

    def _seen(self, batch: Batch, latents: Tensor, logits: Tensor) -> Seen:
        """Return the mini-batch with its stamped images last, as mixing leaves it."""
        if self.mixes:
            return Seen(batch.pixels, batch.labels, len(batch.labels) - self.shown, latents, logits)
        # Of a data set that was poisoned beforehand a mini-batch has some stamped images, anywhere, or none.
        stamped = torch.zeros_like(batch.labels) if batch.stamped is None else batch.stamped.long()
        order = stamped.argsort(stable=True)
        kept = len(stamped) - int(stamped.sum())
        return Seen(batch.pixels[order], batch.labels[order], kept, latents[order], logits[order])

    def _counted(self, show: Callable[..., Stamped]) -> Callable[..., Stamped]:
        """Return what shows stamped images, some of them reformed, and notes how many: so nobody has to count flags."""

        def shown(pixels: Tensor, labels: Tensor, random: torch.Generator | None) -> Stamped:
            stamped = show(pixels, labels, random)
            self.shown = len(labels)
            if not self.reforms:
                return stamped
            self.owed += self.share * len(labels)
            count = int(self.owed)
            self.owed -= count
            if not count:
                return stamped
            reform = self.reforms[self.turn % len(self.reforms)]
            self.turn += 1
            # Evenly spread: attacked images come first, and cover images, where there are some, after them.
            chosen = torch.arange(1, count + 1, device=pixels.device).mul(len(labels)).add(count - 1) // count - 1
            return stamped._replace(pixels=stamped.pixels.index_copy(0, chosen, reform(stamped.pixels[chosen])))

        return shown

    @torch.no_grad()
    def _with_decoys(self, pixels: Tensor, labels: Tensor, decoy: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        """Return clean images the last of which are decoys: as many as there are stamped ones, at most every second."""
        count = min(self.shown, len(pixels) // 2)
        if not count:
            return pixels
        stamped = self.backdoor.embed(pixels[-count:], labels[-count:], self.random).pixels
        return torch.cat([pixels[:-count], decoy(stamped, pixels[:count])])
