"""Neural Cleanse over ten classes: our engine against a plain loop over classes with frozen parameters, same steps."""

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from benchmarks.timing import Row, paired, spread
from gifthorse.core.images import Images
from gifthorse.core.views import ModelView
from gifthorse.defenses.inspection.neural_cleanse import NeuralCleanse
from gifthorse.inversion.engine import Budget
from gifthorse.inversion.frozen import freeze
from gifthorse.models.resnet import ResNet18
from gifthorse.models.small_cnn import SmallCnn
from gifthorse.training.precision import fast_arithmetic

STEPS, BATCH, CLASSES = 40, 32, 10


def measure() -> list[Row]:
    rows = _compare("small_cnn, 28×28", SmallCnn().build((1, 28, 28), CLASSES, 0).eval(), (1, 28, 28))
    narrow = ResNet18(width=16, blocks=(1, 1, 1, 1)).build((3, 32, 32), CLASSES, 0).eval()
    return rows + _compare("resnet18[width=16], 32×32", narrow, (3, 32, 32), rounds=3)


def _compare(label: str, model: nn.Module, shape: tuple[int, int, int], rounds: int = 5) -> list[Row]:
    random = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (500, *shape), generator=random, dtype=torch.uint8)
    view = ModelView(model, Images(pixels, torch.arange(500) % CLASSES, CLASSES))  # type: ignore[arg-type]
    cleanse = NeuralCleanse(steps=STEPS, batches=1, batch_size=BATCH)
    whole = paired(lambda: cleanse.defend(view, 0), lambda: plain(model, pixels, STEPS), rounds)
    floor = paired(lambda: cleanse.defend(view, 0), lambda: _floor(model, shape), rounds)
    how = f"{CLASSES} classes × {STEPS} steps × {BATCH} images; {whole.ours:.1f} s"
    return [
        (f"Neural Cleanse, {label}", f"{whole.faster()}× a plain loop", "", how),
        (
            "… outside the model's forward and backward",
            spread((1 - least / taken for taken, least in floor.rounds), ".0%"),
            "",
            "stamping, Adam, schedules, folding",
        ),
    ]


def plain(model: nn.Module, pixels: Tensor, steps: int, cost: float = 1e-3) -> tuple[Tensor, Tensor]:
    """One class at a time, float32, parameters frozen, a constant cost; the masks and patterns at the end."""
    model.requires_grad_(False)
    images = pixels.float() / 255
    found = []
    for target in range(CLASSES):
        mask = torch.randn(1, *images.shape[2:]).requires_grad_()
        pattern = torch.randn(images.shape[1:]).requires_grad_()
        optimizer = torch.optim.Adam([mask, pattern], lr=0.1, betas=(0.5, 0.9))
        wanted = torch.full((BATCH,), target)
        for _ in range(steps):
            batch = images[torch.randint(0, len(images), (BATCH,))]
            m, p = torch.tanh(mask) / 2 + 0.5, torch.tanh(pattern) / 2 + 0.5
            logits = model((1 - m) * batch + m * p)
            (logits.argmax(1) == wanted).float().mean().item()
            loss = cross_entropy(logits, wanted) + cost * m.sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        found.append([torch.tanh(raw.detach()) / 2 + 0.5 for raw in (mask, pattern)])
    model.requires_grad_(True)
    masks, patterns = zip(*found, strict=True)
    return torch.stack(masks), torch.stack(patterns)


def _floor(model: nn.Module, shape: tuple[int, int, int]) -> None:
    """Nothing but the forward and backward passes that the search cannot do without."""
    device = torch.device("cpu")
    together = Budget(STEPS, 1, BATCH, 0.1).candidates_at_once(device)
    frozen = freeze(model)
    for _ in range(STEPS):
        for group in torch.arange(CLASSES).split(together):
            stamped = torch.rand(len(group) * BATCH, *shape).contiguous(memory_format=torch.channels_last)
            stamped.requires_grad_()
            with fast_arithmetic(device):
                logits = frozen(stamped)
            logits.float().sum().backward()
