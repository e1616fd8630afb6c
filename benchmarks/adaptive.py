"""Training against a defense beside the plain attack, and beside the passes that the defense's offer needs anyway."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.timing import Row, paired
from gifthorse.bench.cell import resolve
from gifthorse.core.classifier import Classifier
from gifthorse.core.defense import Defense
from gifthorse.core.evasion import Attacker, Evasion, Seen
from gifthorse.core.goal import AllToOne
from gifthorse.core.images import Images
from gifthorse.core.networks import evaluating
from gifthorse.core.recipe import StandardRecipe
from gifthorse.core.task import Splits, Task
from gifthorse.core.trojan import Backdoor
from gifthorse.core.views import Materials
from gifthorse.inversion.smallest_trigger import SHOWN
from gifthorse.inversion.stimulation import STIMULATED
from gifthorse.models.resnet import ResNet18
from gifthorse.planting.adaptation import Adaptation
from gifthorse.planting.mixing import BatchMixing
from gifthorse.training.adversarial import perturb
from gifthorse.training.loop import classification_loss, fit
from gifthorse.training.scratch import FromScratch, train
from gifthorse.triggers.patch import Patch, square

RATE = 0.1
AGAINST = (
    "shrinkpad",
    "manifold_projection",
    "strip",
    "adversarial_retraining",
    "activation_clustering",
    "aegis",
    "abs",
    "neural_cleanse",
    "mntd[shadows=2,validation=2,epochs=1]",
)
Floor = Callable[[Classifier, Seen], Tensor]


def measure() -> list[Row]:
    cell = resolve(dataset="digits", profile="smoke")
    digits = Task(**vars(cell.dataset.load(Path())), architecture=cell.model, recipe=StandardRecipe(epochs=1))
    random = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (640, 3, 32, 32), generator=random, dtype=torch.uint8)
    noise = Images(pixels.contiguous(memory_format=torch.channels_last), torch.arange(640) % 10, 10)
    photographs = Task(
        **vars(Splits(noise, noise.take(slice(100)), noise.take(slice(100)), tuple("0123456789"))),
        architecture=ResNet18(width=16, blocks=(1, 1, 1, 1)),
        recipe=StandardRecipe(epochs=1, shift=2),
    )
    rows = []
    for label, task in (("digits, small_cnn", digits), ("32×32 colour, resnet18[width=16]", photographs)):
        benign = train(task, 0)
        rows += [_against(name, label, task, benign) for name in AGAINST]
    return rows


def _against(name: str, label: str, task: Task, benign: Classifier) -> Row:
    defense = resolve(dataset="digits", defense=name, profile="smoke").defense
    assert defense is not None
    shape = task.train.shape
    backdoor = Backdoor(Patch(square(shape, 3, "top_left"), torch.ones(shape), 0.0), AllToOne(target=0))
    prepared = {}
    if defense.preparation() is not None:
        prepared = defense.prepare(Materials(task.holdout, FromScratch(task.architecture, task.recipe)), 0)
    attacker = Attacker(task.train, benign, (0,), 9.0, prepared)

    def epoch(evasion: Evasion) -> None:
        model = benign.clone()
        random = torch.Generator().manual_seed(0)
        adaptation = Adaptation([evasion], model, backdoor, 0.5, 0.1, torch.Generator().manual_seed(0))
        mix = adaptation.mix(BatchMixing(backdoor, RATE, random))
        fit(model, task.train, task.recipe, 0, mix=mix, objective=adaptation.objective(classification_loss))

    with _no_floor():
        evasion = defense.evasion(attacker, 0)
    floor = _floor(defense, evasion, prepared)
    added = paired(lambda: epoch(evasion), lambda: epoch(Evasion()))
    passes = paired(lambda: epoch(evasion), lambda: epoch(floor))
    said = f"training against {name.partition('[')[0]}, {label}"
    return said, f"{passes.slower()} × its passes", "≤ 1.2", f"{added.added()} of an epoch of the plain attack"


def _floor(defense: Defense[Any], evasion: Evasion, prepared: dict[str, Tensor]) -> Evasion:
    """What does the same passes and nothing else."""
    if evasion.adversary is not None:
        search = evasion.adversary

        def move(model: Classifier, seen: Seen) -> Tensor:
            perturb(model, seen.pixels[: seen.kept].detach(), seen.labels[: seen.kept], search, torch.Generator())
            return seen.latents.new_zeros(())

        return Evasion(penalty=move)
    if evasion.reform is not None:
        reform = evasion.reform

        def reformed(_: Classifier, seen: Seen) -> Tensor:
            stamped = seen.pixels[seen.kept :]
            reform(stamped[: len(stamped) // 2])
            return seen.latents.new_zeros(())

        return Evasion(penalty=reformed)
    floors: dict[str, Floor] = {"abs": _stimulating, "neural_cleanse": _searching}
    if defense.name in floors:
        return Evasion(penalty=floors[defense.name])
    if defense.name == "mntd":
        queries = prepared["queries"].flatten(0, 1)

        def asked(model: Classifier, _: Seen) -> Tensor:
            with evaluating(model):
                logits: Tensor = model(queries)
            none: Tensor = logits.float().sum() * 0
            return none

        return Evasion(penalty=asked)
    return Evasion(penalty=lambda _, seen: seen.latents.float().sum() * 0)


def _stimulating(model: Classifier, seen: Seen) -> Tensor:
    clean, stamped = seen.pixels[: seen.kept][:STIMULATED], seen.pixels[seen.kept :][:STIMULATED]
    with evaluating(model):
        maps, _ = model.stages_and_logits(torch.cat([clean, stamped]))
        last = list(zip(model.stage_names, maps, strict=True))[-2:]
        found = [model.continue_from(name, both[: len(clean)], clean[:1]).float().sum() for name, both in last]
    return torch.stack(found).sum() * 0


def _searching(model: Classifier, seen: Seen) -> Tensor:
    pixels = seen.pixels[: seen.kept][:SHOWN].detach().requires_grad_()
    with evaluating(model):
        logits = model(pixels).float()
    torch.autograd.grad(logits.sum(), [pixels], retain_graph=True)
    none: Tensor = logits.sum() * 0
    return none


class _no_floor:  # noqa: N801
    """Surrogates of one epoch are too poor for any attack, but take as long as others."""

    def __enter__(self) -> None:
        from gifthorse.core import evasion
        from gifthorse.defenses.inspection import mntd

        self.kept = evasion.FLOOR, mntd.LEAST_AUROC
        evasion.FLOOR, mntd.LEAST_AUROC = 0.0, 0.0

    def __exit__(self, *_: object) -> None:
        from gifthorse.core import evasion
        from gifthorse.defenses.inspection import mntd

        evasion.FLOOR, mntd.LEAST_AUROC = self.kept
