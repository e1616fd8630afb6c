"""Our training loop against a bare in-memory loop of the same model, batch, precision and optimiser."""

from importlib.util import find_spec

import torch
from torch.nn.functional import cross_entropy

from benchmarks.timing import Row, paired
from gifthorse.bench.cell import resolve
from gifthorse.core.architecture import Architecture
from gifthorse.core.images import Images
from gifthorse.core.recipe import AdversarialRecipe, StandardRecipe
from gifthorse.models import ARCHITECTURES
from gifthorse.models.small_cnn import SmallCnn
from gifthorse.training.loop import fit
from gifthorse.training.precision import fast_arithmetic


def measure() -> list[Row]:
    rows = [_ratio(SmallCnn(), (1, 28, 28), 5120)]
    for name in ARCHITECTURES:
        if name == "timm" and find_spec("timm") is None:
            continue
        architecture = resolve(dataset="cifar10", model=name, profile="laptop").model
        rows.append(_ratio(architecture, (3, 32, 32), 128, rounds=3))
    return [*rows, _adversarial()]


def _adversarial() -> Row:
    """PGD training against its floor: steps + 1 forward and backward passes of the same model and batch."""
    shape, count, device = (1, 28, 28), 2560, torch.device("cpu")
    pixels = torch.randint(0, 256, (count, *shape), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    labels = torch.arange(count) % 10
    recipe = AdversarialRecipe(epochs=1, steps=5, shift=0, flip=False)
    ready = pixels.float() / 255

    def ours() -> None:
        fit(SmallCnn().build(shape, 10, 0), Images(pixels, labels, 10), recipe, 0)

    def floor() -> None:
        model = SmallCnn().build(shape, 10, 0).to(memory_format=torch.channels_last).train()
        for index in torch.arange(count).split(recipe.batch_size):
            batch = ready[index]
            for step in range(recipe.steps + 1):
                batch.requires_grad_(step < recipe.steps)
                with fast_arithmetic(device):
                    logits = model(batch)
                loss = cross_entropy(logits.float(), labels[index])
                if step < recipe.steps:
                    torch.autograd.grad(loss, [batch])
                    batch = batch.detach()
                else:
                    loss.backward()

    pairs = paired(ours, floor)
    return "PGD training, 5 steps", f"{pairs.slower()}× its floor", "≤ 1.15", f"6 passes a batch; {pairs.ours:.1f} s"


def _ratio(architecture: Architecture, shape: tuple[int, int, int], count: int, rounds: int = 5) -> Row:
    random = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (count, *shape), generator=random, dtype=torch.uint8)
    pixels = pixels.contiguous(memory_format=torch.channels_last)
    labels = torch.randint(0, 10, (count,), generator=random)
    ready = (pixels.float() / 255).contiguous(memory_format=torch.channels_last)
    device = torch.device("cpu")
    recipe = StandardRecipe(epochs=2, shift=2, flip=True)

    def ours() -> None:
        fit(architecture.build(shape, 10, 0), Images(pixels, labels, 10), recipe, 0)

    def bare() -> None:
        model = architecture.build(shape, 10, 0).to(memory_format=torch.channels_last).train()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=2e-4)
        for _ in range(recipe.epochs):
            for index in torch.randperm(count).split(recipe.batch_size):
                with fast_arithmetic(device):
                    logits = model(ready[index])
                loss = cross_entropy(logits.float(), labels[index])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()

    pairs = paired(ours, bare, rounds)
    seen = recipe.epochs * count
    how = f"{seen / pairs.ours:,.0f} against {seen / pairs.plain:,.0f} images/s; ours also crops and flips"
    return f"training, {architecture}, {shape[1]}×{shape[2]}", f"{pairs.faster()} of a bare loop", "≥ 0.9", how
