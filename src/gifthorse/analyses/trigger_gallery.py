"""Trigger gallery: the same images with the trigger of every target, and the trigger by itself.

Paper: Dynamic Backdoors (Salem et al. 2020, arXiv:2003.03675), Figures 5, 7 and 9.
Differs: one row per target instead of one image per target. Beside them the trigger on black, drawn anew for every
    picture, once where all draws are alike, and not at all where nothing shows on black. Where whole images are shown
    transformed, clean ones are transformed by the draws of the first row; a trigger that draws as well has others.
"""

import torch
from pydantic import Field
from torch import Tensor

from gifthorse.analyses.pairs import pairs_of
from gifthorse.core.analysis import Analysis, Findings, Subject
from gifthorse.core.images import Images, to_levels
from gifthorse.core.seeds import generator
from gifthorse.core.trojan import Backdoor
from gifthorse.metrics.functional import Counted
from gifthorse.metrics.stamped import Evidence, to_array


class TriggerGallery(Analysis):
    """Shows the same test images stamped for every target, so that other places and patterns are seen."""

    name = "trigger_gallery"
    paper = "Dynamic Backdoors, Figures 5, 7 and 9"

    images: int = Field(8, ge=1, description="test images that are shown in every row")
    targets: int = Field(10, ge=1, description="targets at most, each a row: the first ones")

    def look(self, subject: Subject, seed: int) -> Findings:
        """Return a row of clean images, and for every target the same ones stamped and the trigger alone."""
        backdoor, names = subject.backdoor, subject.task.class_names
        assert backdoor is not None
        images = pairs_of(subject, self.images).plain
        evidence = Evidence()
        changed = []
        for condition in range(min(backdoor.goal.conditions, self.targets)):
            led_to = targets_under(backdoor, images, condition).unique().tolist()
            caption = f"target {names[led_to[0]]}" if len(led_to) == 1 else "targets of their own"
            stamped = self._stamped(backdoor, images.floats(), condition, seed)
            clean = subject.clean(images, self._drawn(condition, seed, images.device)).pixels
            evidence.setdefault("pictures/clean", to_array(clean))
            changed.append((stamped != clean).any(1).sum((1, 2)))
            evidence[f"pictures/{caption.replace('/', '∕')}"] = to_array(stamped)
            alone = self._stamped(backdoor, torch.zeros_like(images.floats()), condition, seed)
            if alone.any():
                alike = bool((alone == alone[:1]).all())
                evidence[f"pictures/{caption.replace('/', '∕')}, alone"] = to_array(alone[:1] if alike else alone)
        every = torch.cat(changed)
        return Findings({"trigger_pixels": Counted(every.float().mean(), len(every))}, evidence)

    def _stamped(self, backdoor: Backdoor, pixels: Tensor, condition: int, seed: int) -> Tensor:
        under = torch.full((len(pixels),), condition, device=pixels.device)
        return to_levels(backdoor.trigger.stamp(pixels, self._drawn(condition, seed, pixels.device), under))

    def _drawn(self, condition: int, seed: int, device: torch.device) -> torch.Generator:
        return generator(seed, "gallery", condition, device=device)


def targets_under(backdoor: Backdoor, images: Images, condition: int) -> Tensor:
    """Return the classes ``(N,)`` that images should get which are stamped under one condition."""
    return backdoor.goal.targets(images.labels, torch.full_like(images.labels, condition))
