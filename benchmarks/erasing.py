"""Erasers that tune along a second network, against bare loops with as many forward and backward passes."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from benchmarks.timing import Row, paired
from gifthorse.core.images import Images
from gifthorse.core.views import ModelView
from gifthorse.defenses.sanitization.mcr import Mcr
from gifthorse.defenses.sanitization.nad import Nad
from gifthorse.models.small_cnn import SmallCnn
from gifthorse.training.precision import fast_arithmetic

SHAPE, COUNT, EPOCHS, SIZE = (1, 28, 28), 640, 4, 64


def measure() -> list[Row]:
    random = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (COUNT, *SHAPE), generator=random, dtype=torch.uint8)
    view = ModelView(SmallCnn().build(SHAPE, 10, 0), Images(pixels, torch.arange(COUNT) % 10, 10))
    nad = Nad(epochs=EPOCHS, schedule="constant", samples=0)
    mcr = Mcr(epochs=EPOCHS, curve_epochs=EPOCHS, schedule="constant", samples=0, validation=0.0)
    return [
        _row("nad, teacher and student", lambda: nad.defend(view, 0), view, watched=True),
        _row("mcr, end and curve", lambda: mcr.defend(view, 0), view, watched=False),
    ]


def _row(name: str, ours: Callable[[], object], view: ModelView, *, watched: bool) -> Row:
    """The floor tunes two copies as long, and runs a third forward where one is watched."""
    ready, labels = view.clean.floats(), view.clean.labels

    def floor() -> None:
        other = view.model.clone().to(memory_format=torch.channels_last)
        for turn in range(2):
            model = view.model.clone().to(memory_format=torch.channels_last).train()
            optimizer = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9, weight_decay=2e-4, foreach=True)
            for _ in range(EPOCHS):
                for index in torch.randperm(COUNT).split(SIZE):
                    _step(model, optimizer, ready[index], labels[index], other if watched and turn else None)

    pairs = paired(ours, floor, 5)
    passes = "6 passes and one of the teacher" if watched else "6 passes"
    return name, f"{pairs.slower()}× its floor", "≤ 1.15", f"{passes} a pair of batches; {pairs.ours:.1f} s"


def _step(
    model: nn.Module, optimizer: torch.optim.Optimizer, pixels: Tensor, labels: Tensor, other: nn.Module | None
) -> None:
    with fast_arithmetic(pixels.device):
        if other is not None:
            with torch.no_grad():
                other(pixels)
        loss = cross_entropy(model(pixels).float(), labels)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
