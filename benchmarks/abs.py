"""ABS: all units and all candidates side by side, against one unit at a time as the method is usually written."""

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from benchmarks.timing import Row, paired
from gifthorse.core.classifier import Classifier
from gifthorse.core.images import Images
from gifthorse.defenses.inspection.abs import Abs
from gifthorse.inversion.stimulation import Stimulation, Unit
from gifthorse.models.resnet import ResNet18
from gifthorse.models.small_cnn import SmallCnn

CLASSES, STEPS, CANDIDATES = 10, 20, 10


def measure() -> list[Row]:
    small = SmallCnn().build((1, 28, 28), CLASSES, 0).eval()
    narrow = ResNet18(width=16, blocks=(1, 1, 1, 1)).build((3, 32, 32), CLASSES, 0).eval()
    return [*_rows("small_cnn, 28×28", small, (1, 28, 28)), *_rows("resnet18[width=16], 32×32", narrow, (3, 32, 32))]


def _rows(label: str, model: Classifier, shape: tuple[int, int, int]) -> list[Row]:
    random = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (50, *shape), generator=random, dtype=torch.uint8)
    images = Images(pixels, torch.arange(50) % CLASSES, CLASSES)
    settings, stage = Abs(steps=2 * STEPS, batch_size=16), model.stage_names[-1]
    stimulation = Stimulation(1, settings.samples, settings.strength, settings.levels, settings.agreement)
    units = [Unit(stage, number, number % CLASSES, 1.0) for number in range(CANDIDATES)]
    first = paired(
        lambda: stimulation.units(model, stage, images), lambda: _stimulate(settings, model, stage, images), 3
    )
    how = f"last stage, {settings.levels + 1} values, 50 images: {first.ours:.2f} s and {first.plain:.2f} s"
    second = paired(
        lambda: settings.invert(model, images, units, 0), lambda: _invert(settings, model, images, units), 3
    )
    then = f"{CANDIDATES} units × {2 * STEPS} steps × 16 images: {second.ours:.2f} s and {second.plain:.2f} s"
    return [
        (f"ABS stimulation, {label}", f"{first.faster('.1f')}× one unit at a time", "≥ 5", how),
        (f"ABS inversion, {label}", f"{second.faster('.1f')}× one unit at a time", "", then),
    ]


@torch.no_grad()
def _stimulate(settings: Abs, model: Classifier, stage: str, images: Images) -> None:
    """Set one channel at a time to one value at a time; the whole network runs for each."""
    pixels = images.floats()
    maps = model.stage(stage, pixels)
    module = model.network.get_submodule(stage)
    for channel in range(maps.shape[1]):
        for level in range(settings.levels + 1):

            def change(_: object, __: object, output: Tensor, at: int = channel, share: int = level) -> Tensor:
                output[:, at] = maps.max() * share / settings.levels
                return output

            hook = module.register_forward_hook(change)
            model(pixels).max(1).values.tolist()
            hook.remove()


def _invert(settings: Abs, model: Classifier, images: Images, units: list[Unit]) -> None:
    """One unit after another in float32, parameters frozen."""
    model.requires_grad_(False)
    pixels = images.floats()
    kept: list[Tensor] = []
    hook = model.network.get_submodule(units[0].stage).register_forward_hook(lambda *seen: kept.append(seen[2]))
    for unit in units:
        mask = torch.zeros(1, *pixels.shape[2:]).requires_grad_()
        pattern = torch.zeros(pixels.shape[1:]).requires_grad_()
        optimizer = torch.optim.Adam([mask, pattern], lr=settings.lr)
        wanted = torch.full((16,), unit.label)
        for _ in range(settings.steps):
            batch = pixels[torch.randint(0, len(pixels), (16,))]
            m, p = torch.tanh(mask) / 2 + 0.5, torch.tanh(pattern) / 2 + 0.5
            logits = model((1 - m) * batch + m * p)
            maps = kept.pop().mean((0, 2, 3))
            loss = cross_entropy(logits, wanted) + 0.01 * m.sum() - maps[unit.channel] + 1e-4 * maps.sum()
            (logits.argmax(1) == wanted).float().mean().item()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    hook.remove()
    model.requires_grad_(True)
