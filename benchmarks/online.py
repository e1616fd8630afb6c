"""Defenses that answer inputs while a model is in use, against the forward passes that each of them needs."""

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from benchmarks.timing import Row, paired
from gifthorse.bench.cell import resolve
from gifthorse.core.classifier import inference_batch
from gifthorse.core.defense import Defense
from gifthorse.core.images import Images
from gifthorse.core.outcomes import CleanModel, InputScreen
from gifthorse.core.recipe import StandardRecipe
from gifthorse.core.views import Materials, ModelView
from gifthorse.defenses.filtering.reconstruction_filter import ReconstructionFilter
from gifthorse.defenses.reformation.februus import Februus
from gifthorse.defenses.reformation.manifold_projection import Projection
from gifthorse.inversion.frozen import freeze
from gifthorse.models.resnet import ResNet18
from gifthorse.models.small_cnn import SmallCnn
from gifthorse.training.scratch import FromScratch

CPU = torch.device("cpu")
ONLINE = {
    "flip": 1,
    "shrinkpad": 1,
    "resize": 1,
    "crop": 1,
    "gaussian_noise": 1,
    "color_hue": 1,
    "color_contrast": 1,
    "color_brightness": 1,
    "color_saturation": 1,
    "transformation": 1,
    "transformation[transforms=[shrinkpad[shrink=4]],votes=9]": 9,
    "down_up_sampling": 1,
    "randomized_smoothing": 100,
    "strip": 64,
    "manifold_projection": 1,
    "auto_encoder": 1,
    "reconstruction_filter": 0,
    "reconstruction_filter[score=divergence]": 2,
    "februus": 2,
    "februus[inpainting=false]": 2,
    "attribution_detector": 1,
}
"""How often the model has to answer for one input; another network's own pass is counted beside that.

What explains an answer goes half a way back besides, from the logits to the last stage.
"""
PER_PIXEL = ("gaussian_noise", "color_hue", "color_contrast", "color_brightness", "color_saturation")
"""Those that calculate with every pixel, of which the smallest networks do not do much more."""
COLOURED = ("color_hue", "color_saturation")
"""Those that have nothing to do with grey images."""


def measure() -> list[Row]:
    small, narrow = SmallCnn(), ResNet18(width=16, blocks=(1, 1, 1, 1))
    return [
        *(_row(each, "small_cnn, 28×28", small, (1, 28, 28)) for each in ONLINE if each not in COLOURED),
        *(_row(each, "resnet18[width=16], 32×32", narrow, (3, 32, 32)) for each in ONLINE),
    ]


def _row(request: str, label: str, architecture: SmallCnn | ResNet18, shape: tuple[int, int, int]) -> Row:
    random = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (160, *shape), generator=random, dtype=torch.uint8)
    clean = Images(pixels.contiguous(memory_format=torch.channels_last), torch.arange(160) % 10, 10)
    model = architecture.build(shape, 10, 0).eval()
    defense = resolve(dataset="mnist", defense=request).defense
    assert isinstance(defense, Defense)
    view = ModelView(model, clean)
    inputs = clean.floats()[: 64 if ONLINE[request] > 2 else 128].contiguous(memory_format=torch.channels_last)
    other: tuple[str, Callable[[Tensor], Tensor]] | None = None
    if isinstance(defense, Projection | ReconstructionFilter):
        quick = defense.changed(epochs=1)
        view = replace(view, prepared=quick.prepare(Materials(clean, FromScratch(architecture, StandardRecipe())), 0))
        other = "the autoencoder's", defense.autoencoder(view.prepared, shape[0], CPU)
    elif isinstance(defense, Februus) and defense.inpainting:
        short = defense.changed(steps=1, adversarial_weight=0.0)
        view = replace(view, prepared=short.prepare(Materials(clean, FromScratch(architecture, StandardRecipe())), 0))
        completion = defense.inpainting_network(view.prepared, shape[0], CPU)
        other = "the completion network's", lambda part: completion(part, (part[:, :1] > 0.5).float())
    outcome = defense.defend(view, 0)
    if isinstance(outcome, InputScreen):
        answer: Callable[[Tensor], Tensor] = outcome.score
    else:
        assert isinstance(outcome, CleanModel)
        answer = outcome.model
    # Screens and smoothing run a folded copy, which is what their passes cost.
    folded = isinstance(outcome, InputScreen) or ONLINE[request] > 1
    passes = freeze(model) if folded else model

    @torch.inference_mode()
    def ours() -> None:
        for part in inputs.split(inference_batch(CPU)):
            answer(part)

    @torch.inference_mode()
    def floor() -> None:
        for part in inputs.split(inference_batch(CPU)):
            if other is not None:
                other[1](part)
            for _ in range(ONLINE[request]):
                passes(part)

    repeats = 1 if ONLINE[request] > 2 else 8
    pairs = paired(lambda: [ours() for _ in range(repeats)], lambda: [floor() for _ in range(repeats)])
    each = 1e3 / (repeats * len(inputs))
    needed = " and ".join(
        ([f"{ONLINE[request]} forward pass{'es' if ONLINE[request] > 1 else ''}"] if ONLINE[request] else [])
        + ([other[0]] if other is not None else [])
    )
    how = f"{pairs.ours * each:.2f} ms per input, {pairs.plain * each:.2f} ms for {needed}"
    wanted = "≤ 2" if request in PER_PIXEL else "≤ 1.15"
    return f"{request}, {label}", f"{pairs.slower()}× its forward passes", wanted, how
