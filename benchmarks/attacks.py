"""Every attack against its floor: the same trainings, of as many epochs, without an attack."""

from pathlib import Path

import torch

from benchmarks.timing import Row, paired
from gifthorse.attacks import ATTACKS
from gifthorse.attacks.data.badnets import BadNets
from gifthorse.bench.cell import resolve
from gifthorse.core.images import Images
from gifthorse.core.recipe import StandardRecipe
from gifthorse.core.task import Splits, Task
from gifthorse.core.trojan import Backdoor
from gifthorse.models.resnet import ResNet18
from gifthorse.planting.generated import GeneratedAttack
from gifthorse.planting.mixing import BatchMixing, copies
from gifthorse.planting.poisoning import PoisoningAttack
from gifthorse.training.loop import Batch, Mix, fit
from gifthorse.training.optimisers import adam
from gifthorse.training.scratch import train
from gifthorse.triggers.generated_patch import GeneratedPatch
from gifthorse.triggers.noise_patch import NoisePatch
from gifthorse.triggers.places import grid

EPOCHS = 3


def measure() -> list[Row]:
    cell = resolve(dataset="digits")
    digits = Task(**vars(cell.dataset.load(Path())), architecture=cell.model, recipe=cell.training)
    random = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (1280, 3, 32, 32), generator=random, dtype=torch.uint8)
    noise = Images(pixels.contiguous(memory_format=torch.channels_last), torch.arange(1280) % 10, 10)
    photographs = Task(
        **vars(Splits(noise, noise.take(slice(100)), noise.take(slice(100)), tuple("0123456789"))),
        architecture=ResNet18(width=16, blocks=(1, 1, 1, 1)),
        recipe=StandardRecipe(shift=2),
    )
    rows = []
    for label, task in (("digits, small_cnn", digits), ("32×32 colour, resnet18[width=16]", photographs)):
        quick = Task(**{**vars(task), "recipe": task.recipe.model_copy(update={"epochs": EPOCHS})})
        rows += _epoch(label, quick)
        rows += [_joint(name, label, quick) for name in ("ban", "cban")]
        rows += [_attack(name, label, quick) for name in ATTACKS if name != "none"]
    return [*rows, _stamping()]


def _epoch(label: str, task: Task) -> list[Row]:
    """What a static trigger adds to an epoch, at TrojanZoo's rate."""
    attack = ATTACKS.build("badnets[poison_rate=0.01]")
    assert isinstance(attack, BadNets)
    backdoor, rate = Backdoor(attack.initial_trigger(task, 0), attack.goal(task)), attack.poison_rate

    def train_with(mix: Mix | None) -> None:
        fit(task.build(0), task.train, task.recipe, 0, mix=mix)

    def poisoned() -> None:
        train_with(BatchMixing(backdoor, rate, torch.Generator().manual_seed(0)))

    whole = paired(poisoned, lambda: train_with(None))
    stamped = paired(poisoned, lambda: train_with(_longer(rate)))
    return [
        (f"poisoning 1 % of every batch, {label}", f"{whole.added()} of an epoch", "< 5 %", "a static patch"),
        ("the same against batches as long, not stamped", f"{stamped.added()} of an epoch", "", "the stamping alone"),
    ]


def _longer(poison_rate: float) -> Mix:
    """As many images more as poisoning adds to every batch, but plain ones."""
    owed = 0.0

    def mix(batch: Batch) -> Batch:
        nonlocal owed
        pixels, labels = batch.pixels, batch.labels
        owed += copies(len(labels), poison_rate)
        more, owed = int(owed), owed % 1
        return Batch(torch.cat([pixels, pixels[:more]]), torch.cat([labels, labels[:more]]))

    return mix


def _joint(name: str, label: str, task: Task) -> Row:
    """A network that is trained along, against the passes of host and network alone: nothing is drawn or pasted."""
    attack = resolve(dataset="digits", attack=name).attack
    assert isinstance(attack, GeneratedAttack)
    benign = train(task, 0)

    def floor() -> None:
        trigger = attack.make_trigger(task, benign, 0)
        assert isinstance(trigger, GeneratedPatch)
        network, optimizer = trigger.network, adam(trigger.network.parameters(), lr=attack.generator_lr)
        longer = _longer(attack.poison_rate)

        def mix(batch: Batch) -> Batch:
            mixed = longer(batch)
            count = len(mixed.labels) - len(batch.labels)
            optimizer.zero_grad()
            network(torch.zeros(count, attack.noise), torch.zeros(count, dtype=torch.long)).sum().backward()
            optimizer.step()
            return mixed

        fit(task.build(0), task.train, task.recipe, 0, mix=mix)

    pairs = paired(lambda: attack.run(task, benign, 0, benign), floor, rounds=3)
    return f"{name}, network and model, {label}", f"{pairs.slower()}× its floor", "≤ 1.3", f"{pairs.ours:.1f} s"


def _stamping() -> Row:
    """Fresh noise at one of four places of grey images, on one core."""
    shape, count = (1, 28, 28), 128
    trigger = NoisePatch(grid(shape, (5, 5), 4)[None], (1, 5, 5))
    pixels, random = torch.rand(count, *shape), torch.Generator().manual_seed(0)
    repeats = 500

    def stamp() -> None:
        for _ in range(repeats):
            trigger.stamp(pixels, random)

    pairs = paired(stamp, lambda: [pixels.clone() for _ in range(repeats)], rounds=3)
    rate = count * repeats / pairs.ours
    return "random patches, 28×28 grey", f"{rate:,.0f} images/s", "≥ 60,000", f"{pairs.slower()}× a copy of the images"


def _attack(name: str, label: str, task: Task) -> Row:
    attack = resolve(dataset="digits", attack=name).attack
    benign = train(task, 0)
    trainings = 0
    if isinstance(attack, PoisoningAttack):
        attack = attack.model_copy(update={"epochs": EPOCHS})
        trainings = 1 if attack.origin == "scratch" else 2

    def floor() -> None:
        for _ in range(max(trainings, 1)):
            fit(task.build(0), task.train, task.recipe, 0)

    pairs = paired(lambda: attack.run(task, benign, 0), floor, rounds=3)
    of = (
        f"{trainings} × {EPOCHS} epochs of training"
        if trainings
        else f"one training of {EPOCHS} epochs; it trains none"
    )
    return f"{name}, {label}", f"{pairs.slower()}× its floor", "", f"{pairs.ours:.1f} s; the floor is {of}"
