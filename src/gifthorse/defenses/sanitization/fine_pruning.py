"""Fine-pruning: prune the channels that clean images use least, then fine-tune.

Paper: Liu, Dolan-Gavitt, Garg 2018, arXiv:1805.12185, section 3; TrojanZoo section 4.3 and Table 21 (prune ratio 0.95).
    DHBE, appendix C (``fp_dhbe``: tuned as its fine-tuning); Li et al. 2020, arXiv:2004.04692, appendix B
    (``fp_rethink``: how much is pruned is searched for on images of their own, and nothing tuned, which may bring the
    backdoor back).
Differs: channels are those of the last stage's output (in a residual network the whole block, as "Rethinking the
    Trigger" does), and pruned ones stay masked while fine-tuning; pruning goes up to the ratio but stops before the
    accuracy on the defender's clean images falls by more than max_accuracy_drop (the stopping rule of section 3, the
    0.2 of TrojanZoo's code), tried in 32 steps; that is also the search of ``fp_rethink``, whose criterion is not
    printed; the schedule of TrojanZoo's fine-tuning is not either: 50 epochs at 0.01, cosine.
"""

import math
from collections import OrderedDict
from collections.abc import Sequence

import torch
from pydantic import Field
from torch import Tensor, nn

from gifthorse.core.classifier import Classifier, inference_batch
from gifthorse.core.defense import CleanImagesDefense
from gifthorse.core.images import Images
from gifthorse.core.outcomes import CleanModel
from gifthorse.core.seeds import derive, generator
from gifthorse.core.views import ModelView
from gifthorse.training.erased import erased
from gifthorse.training.finetuning import FineTuning, too_few

TRIES = 32
FEWEST = 16
"""Images that channels can be ranked by."""


class FinePruning(CleanImagesDefense[ModelView], FineTuning):
    """Prunes the last stage's channels that clean images activate least, then fine-tunes."""

    name = "fine_pruning"
    aliases = ("fp",)
    paper = "Liu et al. 2018, arXiv:1805.12185"
    variants = ("fine_pruning[epochs=0,validation=0.5]", "fine_pruning[shift=1,flip=true]")
    family = "sanitization"
    view = ModelView

    prune_ratio: float = Field(0.95, gt=0, lt=1, description="largest share of channels to prune")
    max_accuracy_drop: float = Field(0.2, ge=0, le=1, description="stop pruning before clean accuracy falls by more")
    validation: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="share of the clean images that only choose how much is pruned; 0: all do",
    )
    epochs: int = Field(50, ge=0, description="epochs of fine-tuning; 0: prune only")
    batch_size: int = Field(64, ge=2, description="images per step of fine-tuning")
    lr: float = Field(0.01, gt=0, description="learning rate of fine-tuning at the start")
    shift: int = Field(0, ge=0, description="random crop of the clean images while fine-tuning, in pixels")
    flip: bool = Field(False, description="random left-right flip of the clean images while fine-tuning")

    def skip(self, view: ModelView) -> str | None:
        """Refuse a model without named stages, and too few images to rank channels by."""
        if not view.model.stage_names:
            return "needs a model whose stages are known"
        needed = math.ceil(FEWEST / (1 - self.validation))
        if len(view.clean) < needed:
            return f"needs {needed} clean images; there are {len(view.clean)}"
        return too_few(view.clean) if self.epochs else None

    def defend(self, view: ModelView, seed: int) -> CleanModel:
        """Rank once, try every step, prune, fine-tune."""
        model = view.model.clone()
        last = model.stage_names[-1]
        ranked, validated = self.parts(view.clean, seed)
        ranking = mean_activation(model, last, ranked).argsort()
        limit = int(self.prune_ratio * len(ranking))
        counts = sorted({round(limit * step / TRIES) for step in range(TRIES + 1)})
        accuracies = pruned_accuracies(model, last, ranking, counts, validated)
        pruned = 0
        for count, accuracy in zip(counts, accuracies, strict=True):
            if accuracies[0] - accuracy > self.max_accuracy_drop:
                break
            pruned = count
        mask_channels(model, last, len(ranking))[ranking[:pruned]] = 0

        if self.epochs:
            self.tune(model, view.clean, derive(seed, self.name))
        return erased(view.model, model.eval(), view.clean)

    def parts(self, clean: Images, seed: int) -> tuple[Images, Images]:
        """Return the images that channels are ranked by, and those that choose how many are pruned."""
        count = math.floor(self.validation * len(clean))
        if count == 0:
            return clean, clean
        order = torch.randperm(len(clean), generator=generator(seed, self.name, "validation")).to(clean.device)
        return clean.take(order[count:]), clean.take(order[:count])


class ChannelMask(nn.Module):
    """Multiplies channels by 0 or 1."""

    keep: Tensor

    def __init__(self, channels: int):
        super().__init__()
        self.register_buffer("keep", torch.ones(channels))

    def forward(self, maps: Tensor) -> Tensor:
        """Mask ``(N, C, H, W)``."""
        return maps * self.keep.view(1, -1, 1, 1)


def mask_channels(model: Classifier, stage: str, channels: int) -> Tensor:
    """Put a channel mask after a stage, in place; returns the mask ``(C,)``, all ones, to write into."""
    mask = ChannelMask(channels).to(model.device)
    masked = nn.Sequential(OrderedDict(stage=model.network.get_submodule(stage), mask=mask))
    parent, _, child = stage.rpartition(".")
    setattr(model.network.get_submodule(parent), child, masked)
    return mask.keep


@torch.inference_mode()
def mean_activation(model: Classifier, stage: str, images: Images) -> Tensor:
    """Return the mean activation ``(C,)`` of a stage's channels over clean images."""
    batches = images.batches(inference_batch(images.device))
    total = sum(model.stage(stage, pixels).float().mean((2, 3)).sum(0) for pixels, _ in batches)
    assert isinstance(total, Tensor)
    return total / len(images)


def pruned_accuracies(
    model: Classifier, stage: str, ranking: Tensor, counts: Sequence[int], images: Images
) -> list[float]:
    """Return the accuracy on ``images`` with the first so many channels of ``ranking (C,)`` pruned, for each count.

    What comes before the stage runs once for all counts, unless what comes after it takes more than its output.
    """
    place = ranking.argsort()
    keep = torch.stack([place >= count for count in counts]).to(torch.float32)
    try:
        return masked_accuracies(model, stage, keep, images)
    except RuntimeError:
        # Something bypasses the stage, as ESB's module does, and has one row per image, not one per image and count.
        return [masked_accuracies(model, stage, row, images)[0] for row in keep.split(1)]


@torch.inference_mode()
def masked_accuracies(model: Classifier, stage: str, keep: Tensor, images: Images) -> list[float]:
    """Return the accuracy on ``images`` under each mask ``(M, C)`` of a stage's channels, in one pass."""

    def prune(_: nn.Module, __: object, maps: Tensor) -> Tensor:
        return (keep[:, None, :, None, None] * maps).flatten(0, 1)

    hits = torch.zeros(len(keep), device=images.device)
    hook = model.network.get_submodule(stage).register_forward_hook(prune)
    try:
        for pixels, labels in images.batches(inference_batch(images.device)):
            hits += (model(pixels).unflatten(0, (len(keep), len(labels))).argmax(2) == labels).sum(1)
    finally:
        hook.remove()
    accuracies: list[float] = (hits / len(images)).tolist()
    return accuracies
