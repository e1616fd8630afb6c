"""MNTD: shadow models against one after another, and a step of meta-classifiers against the passes in it."""

import torch

from benchmarks.timing import Row, paired
from gifthorse.core.images import Images
from gifthorse.core.recipe import StandardRecipe
from gifthorse.defenses.inspection.mntd import Mntd
from gifthorse.inversion.frozen import freeze
from gifthorse.inversion.meta_classifier import Stack
from gifthorse.inversion.shadows import train_shadows
from gifthorse.models.small_cnn import SmallCnn

SHAPE, CLASSES, MODELS, BATCH = (1, 16, 16), 10, 16, 32


def measure() -> list[Row]:
    return [_shadows(SmallCnn(width=4, embedding=16)), _shadows(SmallCnn()), _step()]


def _images(count: int) -> Images:
    random = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (count, *SHAPE), generator=random, dtype=torch.uint8)
    return Images(pixels, torch.arange(count) % CLASSES, CLASSES)


def _shadows(architecture: SmallCnn) -> Row:
    images = _images(2 * BATCH)
    recipe = StandardRecipe(epochs=2, batch_size=BATCH, shift=0, flip=False)

    def train(at_once: int) -> None:
        half = MODELS // 2
        train_shadows(architecture, images, images, recipe, benign=half, trojaned=half, seed=0, at_once=at_once)

    pairs = paired(lambda: train(MODELS), lambda: train(1))
    how = f"{MODELS} models: {pairs.ours:.2f} s stacked, {pairs.plain:.2f} s one after another"
    return f"MNTD's shadow models, {architecture}", f"{pairs.faster()}× one after another", "2×", how


def _step() -> Row:
    """Five meta-classifiers with ten queries each, beside the models asked in a loop and nothing else."""
    models = [freeze(SmallCnn().build(SHAPE, CLASSES, seed)) for seed in range(MODELS)]
    stack, flags, like = Stack.of(models), torch.arange(MODELS) >= MODELS // 2, _images(40)
    settings = Mntd(meta_epochs=4, models_per_step=MODELS)
    stacks, trojaned = {"training": stack, "validation": stack}, {"training": flags, "validation": flags}

    def passes() -> None:
        queries = torch.rand(settings.classifiers * settings.queries, *SHAPE, requires_grad=True)
        for _ in range(settings.meta_epochs):
            for model in models:
                model(queries).sum().backward()
            with torch.no_grad():
                for model in models:
                    model(queries)

    pairs = paired(lambda: settings.train_meta(stacks, trojaned, like, 0), passes)
    how = f"{MODELS} models in a step: {pairs.ours / settings.meta_epochs:.3f} s an epoch, with validation"
    return "MNTD's meta-classifiers", f"{pairs.slower()}× the passes in a loop", "1×", how
