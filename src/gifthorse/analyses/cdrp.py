"""Critical data routing paths: which channels of each layer an image's answer needs.

Paper: Wang et al. 2018, "Interpret Neural Networks by Identifying Critical Data Routing Paths" (CVPR), section 3; as
    Rethinking the Trigger (Li et al. 2020, arXiv:2004.04692) uses them in section 5.3, Figure 6 and Appendix G: of 100
    clean images, the same stamped, and the same stamped and transformed; the correlation of every two, layer by layer.
Differs: the weight of the gates' sum and the other settings are those of the code that Li et al. name
    (cdrp-detect, adversarial_detect.py): their text has lost the weight. The first test images are taken where theirs
    are drawn at random. Gates follow every convolution, with the batch normalisation that was folded into it, in
    residual networks as well, where that code has them after blocks. All images are optimised together, each with gates
    of its own.
"""

from functools import partial

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from gifthorse.analyses.pairs import at_once, pairs_of
from gifthorse.core.analysis import Analysis, Findings, Number, Subject
from gifthorse.core.classifier import Classifier, predict
from gifthorse.core.errors import NotApplicableError, RequestError
from gifthorse.core.findings import profile_name
from gifthorse.core.progress import track
from gifthorse.core.task import Task
from gifthorse.core.transformation import Transformation, random_shares
from gifthorse.inversion.frozen import freeze
from gifthorse.metrics.functional import Counted, correlation
from gifthorse.metrics.stamped import Evidence, to_array
from gifthorse.transformations.spatial import ShrinkPad

COMPARED = (("clean", "stamped"), ("clean", "transformed"), ("stamped", "transformed"))


class Cdrp(Analysis):
    """Compares which channels clean, stamped and transformed stamped images need, layer by layer (CDRP)."""

    name = "cdrp"
    aliases = ("critical_data_routing_paths",)
    paper = "Wang et al. 2018, CVPR; Li et al. 2020, arXiv:2004.04692, section 5.3"
    variants = ("cdrp[transformation=flip]",)

    images: int = Field(100, ge=1, description="clean test images, of each of which there are three versions")
    transformation: Transformation = Field(  # type: ignore[assignment]
        ShrinkPad.name,
        description="what stamped images undergo to become the third version",
    )
    sparsity: float = Field(
        0.05, ge=0, description="weight of the sum of an image's gates beside the cross-entropy (γ)"
    )
    steps: int = Field(30, ge=1, description="steps of gradient descent")
    lr: float = Field(0.1, gt=0, description="learning rate of the gates")
    momentum: float = Field(0.9, ge=0, lt=1, description="momentum of the gates")
    largest_gate: float = Field(5.0, ge=1, description="largest value of a gate; the smallest is 0")

    def check(self, model: Classifier, task: Task) -> None:
        """Refuse networks without convolutions, and images that cannot be transformed so."""
        if not convolutions(model):
            raise RequestError(f"{self.name}: the network has no convolutions, whose channels could have gates")
        if (reason := self.transformation.unfit(task.test.shape)) is not None:
            raise RequestError(f"{self.name}: {reason}")

    def look(self, subject: Subject, seed: int) -> Findings:
        """Return the mean correlation of the gates of every two versions of an image, layer by layer."""
        pairs = pairs_of(subject, self.images)
        stamped = pairs.stamped.floats()
        shares = random_shares((self.transformation,), stamped, seed).squeeze(1)
        versions = {
            "clean": pairs.clean.floats(),
            "stamped": stamped,
            "transformed": self.transformation.apply(stamped, shares),
        }
        gates = self.critical_gates(freeze(subject.model), torch.cat(list(versions.values())))
        by_version = [dict(zip(versions, layer.chunk(len(versions)), strict=True)) for layer in gates]
        found = torch.stack(
            [torch.stack([correlation(layer[one], layer[other]) for layer in by_version]) for one, other in COMPARED]
        )
        numbers: dict[str, Number] = {}
        evidence, names = Evidence(), list(convolutions(subject.model))
        for (one, other), by_layer in zip(COMPARED, found, strict=True):
            # Gates of a layer that are all alike correlate with nothing; where no image has others it has no number.
            counted = ~by_layer.isnan()
            told = counted.any(1)
            if not told.any():
                continue
            name, means = f"cdrp_{one}_{other}", by_layer.nanmean(1)
            counts = counted[told].sum(1)
            numbers[name] = [Counted(*each) for each in zip(means[told].tolist(), counts.tolist(), strict=True)]
            numbers[f"{name}_mean"] = Counted(means[told].mean(), int(counted.any(0).sum()))
            evidence[profile_name("CDRP correlation by layer", names, f"{one} and {other}")] = to_array(means.float())
        if not numbers:
            raise NotApplicableError(
                "of any two versions of an image one at least has gates that are all alike, in every layer: its answer "
                "needs all channels or none, and there is nothing to correlate"
            )
        return Findings(numbers, evidence)

    def critical_gates(self, model: Classifier, pixels: Tensor) -> list[Tensor]:
        """Return the gates ``(N, C')`` of each convolution of a frozen model: of those that keep the answer the best.

        The loss of an image of ``pixels (N, C, H, W)`` is the cross-entropy between what the model answers with gates
        and without, plus ``sparsity`` times the sum of its gates; they begin at 1.
        """
        channels, answers = [each.out_channels for each in convolutions(model).values()], predict(model, pixels)
        gates = torch.ones(len(pixels), sum(channels), device=pixels.device)
        kept, least, velocity = gates, gates.new_full((len(gates),), torch.inf), torch.zeros_like(gates)
        for _ in track(range(self.steps), "control gates", self.steps):
            losses, slopes, same = self._descent(model, pixels, gates, answers)
            better = same & (losses < least)
            kept = torch.where(better.unsqueeze(1), gates, kept)
            least = torch.where(better, losses, least)
            velocity = self.momentum * velocity + slopes
            gates = (gates - self.lr * velocity).clamp(0, self.largest_gate)
        return list(kept.split(channels, 1))

    def _descent(
        self, model: Classifier, pixels: Tensor, gates: Tensor, answers: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return each image's loss ``(N,)``, its gradient by the gates ``(N, G)``, and whether the answer is kept."""
        size, found = at_once(pixels), []
        for part, own, wanted in zip(*(each.split(size) for each in (pixels, gates, answers)), strict=True):
            free = own.detach().requires_grad_()
            logits = gated(model, part, free)
            losses = cross_entropy(logits, wanted.softmax(1), reduction="none") + self.sparsity * free.sum(1)
            (slopes,) = torch.autograd.grad(losses.sum(), free)
            found.append((losses.detach(), slopes, logits.detach().argmax(1) == wanted.argmax(1)))
        losses, slopes, same = (torch.cat(each) for each in zip(*found, strict=True))
        return losses, slopes, same


def convolutions(model: Classifier) -> dict[str, nn.Conv2d]:
    """Return the convolutions of a network by name, in order, but for one that gives the logits."""
    named = model.network.named_modules()
    return {name: each for name, each in named if isinstance(each, nn.Conv2d) and name != model.head_name}


def gated(model: Classifier, pixels: Tensor, gates: Tensor) -> Tensor:
    """Return logits ``(N, K)`` where every channel of each convolution is multiplied by ``gates (N, G)``, in order."""

    def gate(own: Tensor, _: nn.Module, __: object, output: Tensor) -> Tensor:
        return output * own[:, :, None, None]

    layers = convolutions(model).values()
    parts = gates.split([layer.out_channels for layer in layers], 1)
    hooks = [layer.register_forward_hook(partial(gate, own)) for layer, own in zip(layers, parts, strict=True)]
    try:
        logits: Tensor = model(pixels)
        return logits
    finally:
        for hook in hooks:
            hook.remove()
