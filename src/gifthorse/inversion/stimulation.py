"""Stimulating the units of a model, to see which class each of them lifts whatever the image shows.

Paper: Liu et al. 2019, CCS, doi:10.1145/3319535.3363216, section 4 and Algorithm 1.
Differs: units are channels of a stage after its activation; the whole map of a channel is set to one value. All
    channels and values run side by side, through the rest of the network alone.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from gifthorse.core.classifier import Classifier
from gifthorse.core.evasion import Penalty, Seen
from gifthorse.core.images import Images
from gifthorse.core.networks import evaluating
from gifthorse.core.progress import track
from gifthorse.core.seeds import generator
from gifthorse.training.precision import fast_arithmetic

MAPS_AT_ONCE = 1024
STIMULATED = 32
"""Images of each kind that a penalty looks at in a step."""


@dataclass(frozen=True)
class Unit:
    """A channel of a stage, the class that it lifts, and by how much more than any other (the least over images)."""

    stage: str
    channel: int
    label: int
    margin: float


@dataclass(frozen=True)
class Stimulation:
    """How units are stimulated: in the last ``stages``, on ``samples`` images of each class.

    A unit is set to zero and to ``levels`` values up to ``strength`` maxima of its stage; it counts where it lifts one
    class most on a share of ``agreement`` of the images.
    """

    stages: int
    samples: int
    strength: float
    levels: int
    agreement: float

    def all_units(self, model: Classifier, images: Images, seed: int) -> list[Unit]:
        """Return every unit of the last stages that lifts one class on enough images."""
        order = torch.randperm(len(images), generator=generator(seed, "abs", "samples")).to(images.device)
        shuffled = images.take(order)
        rank = (shuffled.labels.unsqueeze(0) == shuffled.labels.unsqueeze(1)).tril(-1).sum(1)
        chosen = shuffled.take(rank < self.samples)
        return [unit for stage in model.stage_names[-self.stages :] for unit in self.units(model, stage, chosen)]

    @torch.no_grad()
    def units(self, model: Classifier, stage: str, images: Images) -> list[Unit]:
        """Set one channel of a stage after another to a few values and see which class that lifts, and by how much.

        A class is lifted by the most that its logit gains over the channel at zero; an image's own class is not
        counted. The margin of an image is what the first class gains more than the second, and where it is zero no
        class is lifted; that of a unit is the least over the images that agree.
        """
        pixels = images.floats()
        with fast_arithmetic(images.device):
            maps = model.stage(stage, pixels)
        values = maps.max() * self.strength * torch.arange(self.levels + 1, device=maps.device) / self.levels
        at_once = max(MAPS_AT_ONCE // (len(values) * len(maps)), 1)
        channels = torch.arange(maps.shape[1], device=maps.device)
        lifting = []
        for part in track(channels.split(at_once), f"stimulating {stage}", -(-len(channels) // at_once)):
            tried = maps.expand(len(part), len(values), *maps.shape).clone()
            tried[torch.arange(len(part)), :, :, part] = values.to(maps.dtype).view(1, -1, 1, 1, 1)
            with fast_arithmetic(images.device):
                logits = model.continue_from(stage, tried.flatten(0, 2), pixels[:1]).float()
            logits = logits.view(len(part), len(values), len(maps), -1)
            gain = logits[:, 1:].amax(1) - logits[:, 0]
            gain = gain.scatter(2, images.labels.view(1, -1, 1).expand(len(part), -1, 1), -torch.inf)
            two = gain.topk(2, dim=2)
            winner, margin = two.indices[..., 0], two.values[..., 0] - two.values[..., 1]
            label = winner.mode(1).values
            eligible = images.labels != label.unsqueeze(1)
            agrees = eligible & (winner == label.unsqueeze(1)) & (margin > 0)
            share = agrees.sum(1) / eligible.sum(1).clamp_min(1)
            least = margin.masked_fill(~agrees, torch.inf).amin(1)
            found = zip(part.tolist(), label.tolist(), least.tolist(), share.tolist(), strict=True)
            lifting += [Unit(stage, c, t, m) for c, t, m, agreed in found if agreed >= self.agreement]
        return lifting


def stimulation_cost(stages: int, strength: float) -> Penalty:
    """Return the penalty: the loss of clean images while the unit is stimulated that the trigger raises most.

    In each of the last ``stages`` that unit is set to ``strength`` maxima of its stage, as stimulation does.
    """

    def penalty(model: Classifier, seen: Seen) -> Tensor:
        clean, stamped = seen.pixels[: seen.kept][:STIMULATED], seen.pixels[seen.kept :][:STIMULATED]
        if not len(stamped):
            return seen.latents.new_zeros(())
        labels, losses = seen.labels[: len(clean)], []
        with evaluating(model):
            maps, _ = model.stages_and_logits(torch.cat([clean, stamped]))
            for name, both in list(zip(model.stage_names, maps, strict=True))[-stages:]:
                ours, theirs = both[: len(clean)], both[len(clean) :]
                raised = theirs.detach().mean((0, 2, 3)) - ours.detach().mean((0, 2, 3))
                unit = torch.arange(len(raised), device=raised.device) == raised.argmax()
                level = strength * both.detach().amax()
                logits = model.continue_from(name, torch.where(unit.view(-1, 1, 1), level, ours), clean[:1])
                # A unit far out of its range gives losses without bound.
                losses.append(cross_entropy(logits.float(), labels).log1p())
        return torch.stack(losses).mean()

    return penalty
