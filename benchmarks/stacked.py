"""Sixteen small models trained in shared passes, against the same models one after another."""

import torch

from benchmarks.timing import Row, paired
from gifthorse.core.classifier import Classifier
from gifthorse.core.images import Images
from gifthorse.core.recipe import StandardRecipe
from gifthorse.models.small_cnn import SmallCnn
from gifthorse.training.stacked import fit_stacked

MODELS, STEPS, BATCH = 16, 2, 32


def measure() -> list[Row]:
    return [
        _ratio(SmallCnn(width=4, embedding=16), (1, 16, 16)),
        _ratio(SmallCnn(), (1, 28, 28)),
    ]


def _ratio(architecture: SmallCnn, shape: tuple[int, int, int]) -> Row:
    random = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (STEPS * BATCH, *shape), generator=random, dtype=torch.uint8)
    images = Images(pixels, torch.arange(len(pixels)) % 10, 10)
    recipe = StandardRecipe(epochs=1, batch_size=BATCH, shift=2, flip=False)

    def train(at_once: int) -> None:
        models: list[Classifier] = [architecture.build(shape, 10, seed) for seed in range(MODELS)]
        fit_stacked(models, images, recipe, range(MODELS), at_once=at_once)

    pairs = paired(lambda: train(MODELS), lambda: train(1))
    how = (
        f"{MODELS} models, {STEPS} steps of {BATCH}: {pairs.ours:.2f} s stacked, {pairs.plain:.2f} s one after another"
    )
    return f"stacked training, {architecture}, {shape[1]}×{shape[2]}", f"{pairs.faster()}× one after another", "", how
