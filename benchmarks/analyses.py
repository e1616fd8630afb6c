"""Analyses of attribution and routing, against the passes through the network that each of them needs."""

from collections.abc import Callable

import torch
from torch import Tensor

from benchmarks.timing import Row, paired
from gifthorse.analyses.cdrp import Cdrp
from gifthorse.analyses.gradcam import GradCam
from gifthorse.analyses.pairs import at_once
from gifthorse.analyses.saliency import Saliency
from gifthorse.core.classifier import Classifier
from gifthorse.inversion.frozen import freeze
from gifthorse.models.resnet import ResNet18
from gifthorse.models.small_cnn import SmallCnn

IMAGES, OF_CDRP, STEPS = 200, 300, 10


def measure() -> list[Row]:
    return [
        *_rows("small_cnn, 28×28", SmallCnn(), (1, 28, 28)),
        *_rows("resnet18[width=16], 32×32", ResNet18(width=16, blocks=(1, 1, 1, 1)), (3, 32, 32)),
    ]


def _rows(label: str, architecture: SmallCnn | ResNet18, shape: tuple[int, int, int]) -> list[Row]:
    random = torch.Generator().manual_seed(0)
    model, pixels = freeze(architecture.build(shape, 10, 0)), torch.rand(OF_CDRP, *shape, generator=random)
    some, one, two = pixels[:IMAGES], torch.zeros(1, IMAGES).long(), torch.arange(2 * IMAGES).view(2, -1) % 10
    routing = Cdrp(steps=STEPS)
    return [
        _row(f"gradcam, {label}", lambda: GradCam().maps(model, some, one), model, some, 1, "≤ 1.2"),
        _row(f"saliency, {label}", lambda: Saliency().maps(model, some, one), model, some, 1, "≤ 1.2"),
        _row(f"gradcam of two classes, {label}", lambda: GradCam().maps(model, some, two), model, some, 2, "≤ 1.2"),
        _row(f"saliency of two classes, {label}", lambda: Saliency().maps(model, some, two), model, some, 2, "≤ 1.2"),
        _row(f"cdrp, {label}", lambda: routing.critical_gates(model, pixels), model, pixels, STEPS, ""),
    ]


def _row(what: str, ours: Callable[[], object], model: Classifier, pixels: Tensor, rounds: int, wanted: str) -> Row:
    """Compare with so many rounds of a forward pass and the way back to the pixels, in batches of the same size."""

    def floor() -> None:
        for _ in range(rounds):
            for part in pixels.split(at_once(pixels)):
                shown = part.clone().requires_grad_()
                torch.autograd.grad(model(shown).amax(1).sum(), shown)

    pairs = paired(ours, floor)
    each = 1e3 / len(pixels)
    passes = "there and back" if rounds == 1 else f"{rounds} times there and back"
    how = f"{pairs.ours * each:.2f} ms per image, {pairs.plain * each:.2f} ms {passes}"
    return what, f"{pairs.slower()}× its passes", wanted, how
