"""AEGIS: translation of all classes against its forwards and backwards, and what the clusters of a whole scan take."""

import time

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from benchmarks.timing import Row, paired
from gifthorse.core.classifier import Classifier, inference_batch
from gifthorse.core.images import Images
from gifthorse.core.pgd import Pgd
from gifthorse.core.views import ModelView
from gifthorse.defenses.inspection.aegis import Aegis
from gifthorse.inversion.frozen import freeze
from gifthorse.inversion.translation import PENULTIMATE, translate
from gifthorse.models.small_cnn import SmallCnn
from gifthorse.training.precision import fast_arithmetic

SHAPE, CLASSES, COUNT, STEPS = (1, 28, 28), 10, 500, 20


def measure() -> list[Row]:
    random = torch.Generator().manual_seed(0)
    seeds = torch.rand(COUNT, *SHAPE, generator=random)
    model = freeze(SmallCnn().build(SHAPE, CLASSES, 0))
    search = Pgd(norm="l2", radius=100.0, step_size=0.5, steps=STEPS, start="image", targeted=True)
    pairs = paired(lambda: translate(model, seeds, search, PENULTIMATE, 40), lambda: _floor(model, seeds), 5)
    return [
        (
            "AEGIS, translation of ten classes",
            f"{pairs.slower()}× its floor",
            "≤ 1.1",
            f"{STEPS} forwards and backwards and a forward of {COUNT} images each; {pairs.ours:.1f} s",
        ),
        _scan(seeds),
    ]


def _floor(model: Classifier, seeds: Tensor) -> None:
    """Run the same passes of the model, and nothing between them."""
    for label in range(CLASSES):
        for block in seeds.split(inference_batch(seeds.device)):
            wanted = torch.full((len(block),), label)
            for _ in range(STEPS):
                point = block.detach().requires_grad_()
                with fast_arithmetic(block.device):
                    logits = model(point)
                torch.autograd.grad(cross_entropy(logits.float(), wanted, reduction="sum"), [point])
            with torch.inference_mode():
                model(block)


def _scan(seeds: Tensor) -> Row:
    """A whole scan, and the share of it that is not translation."""
    images = Images((seeds * 255).to(torch.uint8), torch.arange(COUNT) % CLASSES, CLASSES)
    view = ModelView(SmallCnn().build(SHAPE, CLASSES, 0), images)
    method = Aegis(seeds=COUNT, step_size=0.5, steps=STEPS, least_robust=0.0, least_reached=0.0)
    start = time.process_time()
    method.defend(view, 0)
    whole = time.process_time() - start
    search = Pgd(norm="l2", radius=100.0, step_size=0.5, steps=STEPS, start="image", targeted=True)
    start = time.process_time()
    translate(freeze(view.model), seeds, search, PENULTIMATE, 40)
    moved = time.process_time() - start
    return (
        "AEGIS, a whole scan of ten classes",
        f"{whole:.0f} s",
        "minutes",
        f"{COUNT} seeds; t-SNE and mean shift {1 - moved / whole:.0%} of it",
    )
