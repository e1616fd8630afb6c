"""Neural Cleanse beside TrojanZoo's own and beside a plain loop, on one trojaned model: equal quality, equal steps.

TrojanZoo is no dependency of this project and `python -m benchmarks` leaves this file out; to run it:

    pip install trojanzoo 'matplotlib<3.9'
    python -m benchmarks.against_trojanzoo --data-root data --store gifthorse-runs

Equal quality: processor time of a search of all classes whose trigger of the target has a mask below `--l1` (the
planted trigger's own norm, unless given) and succeeds on 99 % of the test images. A search knows how many mini-batches
it has, as its schedule depends on it; the number is doubled until the trigger is good enough, and the last search alone
counts. Each has the fastest of its schedules, and another seed in every round.

Equal steps: equal images and mini-batches. There TrojanZoo 2.0.3 searches as published: cost 1e-3, Adam 0.1 with a
cosine over 10 epochs, one class after another; we search as in the `laptop` profile (the cost may change after every
fourth mini-batch) and never stop early.

All that TrojanZoo's example sets up around `optimize_mark` is left out, in its favour: images are tensors in memory
that no worker process loads, and the two validations per class on the whole test set are not made.
"""

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.utils.data import DataLoader, RandomSampler, TensorDataset

from benchmarks.neural_cleanse import BATCH, plain
from benchmarks.timing import seconds, spread, timed
from gifthorse.bench.cell import resolve
from gifthorse.bench.packing import unpack_trojan
from gifthorse.bench.runner import Runner
from gifthorse.bench.store import Store
from gifthorse.core.classifier import Classifier, predict
from gifthorse.core.images import Images
from gifthorse.core.task import Task
from gifthorse.core.trigger import blend
from gifthorse.core.trojan import Trojan
from gifthorse.core.views import ModelView
from gifthorse.datasets.splits import load_splits
from gifthorse.defenses.inspection.neural_cleanse import NeuralCleanse
from gifthorse.metrics.functional import attack_success_rate

EPOCHS = 10  # TrojanZoo's
A_STEP = 4  # mini-batches in a step of ours, as in the laptop profile
BUDGETS = (50, 100, 200, 400, 800, 1600)  # mini-batches per class
SUCCESS = 0.99

Triggers = tuple[Tensor, Tensor]
"""Masks ``(K, 1, H, W)`` and patterns ``(K, C, H, W)`` of all classes."""

Search = Callable[[Classifier, Images, int, int], Triggers]
"""Searches all classes of a model with clean images, so many mini-batches per class, and a seed."""


class Quality(NamedTuple):
    """The target's L1, the median of the others', and the target's ASR on test images of other classes."""

    l1: float
    others: float
    asr: float


class Reached(NamedTuple):
    """A search that was good enough: its schedule, mini-batches per class, and processor seconds."""

    schedule: str
    budget: int
    seconds: float
    quality: Quality


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.against_trojanzoo")
    parser.add_argument("--dataset", default="mnist", help="with the laptop profile's model, attacked by badnets")
    parser.add_argument("--data-root", type=Path, default=Path("data"))
    parser.add_argument("--store", type=Path, default=Path("gifthorse-runs"), help="keeps the model between runs")
    parser.add_argument("--l1", type=float, help="norm that the target's mask has to reach (the planted mask's)")
    parser.add_argument(
        "--budgets", type=int, nargs="+", default=BUDGETS, help="mini-batches per class to try, in order"
    )
    parser.add_argument("--batches", type=int, default=20, help=f"equal steps: mini-batches of {BATCH} per epoch")
    parser.add_argument("--rounds", type=int, default=3, help="paired rounds of either comparison")
    parser.add_argument("--seed", type=int, default=0, help="of the model; the rounds' seeds follow it")
    asked = parser.parse_args()
    try:
        import trojanvision.defenses  # noqa: F401
    except ImportError as error:
        parser.exit(2, f"this needs TrojanZoo: pip install trojanzoo 'matplotlib<3.9' ({error})\n")

    torch.set_num_threads(1)
    task, trojan = _trojan(asked.dataset, asked.data_root, asked.store, asked.seed)
    clean, steps = task.holdout.take(slice(asked.batches * BATCH)), EPOCHS * asked.batches
    if len(clean) < asked.batches * BATCH:
        parser.error(f"--batches: {len(clean)} clean images make at most {len(clean) // BATCH}")
    seeds = range(asked.seed, asked.seed + asked.rounds)
    assert trojan.backdoor is not None
    assert trojan.backdoor.trigger.mask is not None
    bound = asked.l1 or float(trojan.backdoor.trigger.mask.sum())

    Console(width=140).print(_equal_quality(task, trojan, clean, bound, asked.budgets, seeds))
    print(f"equal quality: the target's L1 below {bound:g} at success of at least {SUCCESS:g}\n")
    Console(width=140).print(_equal_steps(task, trojan, clean, steps, seeds))
    print(f"equal steps: {clean.classes} classes × {steps} mini-batches × {BATCH} images")
    print(f"median (range) of {asked.rounds} paired rounds; processor time, one thread, torch {torch.__version__}")


def _equal_quality(
    task: Task, trojan: Trojan, clean: Images, bound: float, budgets: Sequence[int], seeds: Sequence[int]
) -> Table:
    model, rounds = trojan.model.clone(), []
    for seed in seeds:

        def run(search: Search, budget: int, seed: int = seed) -> Triggers:
            return search(model, clean, budget, seed)

        found: dict[str, Reached | None] = {}
        for name, schedules in SCHEDULES.items():
            searches = {label: partial(run, search) for label, search in schedules.items()}
            found[name] = fastest(
                searches,
                lambda quality: quality.l1 < bound and quality.asr >= SUCCESS,
                partial(_quality, task, trojan),
                budgets,
            )
            print(f"seed {seed}, {name}: {found[name]}", file=sys.stderr)
        rounds.append(found)
    table = Table("at equal quality", "reached", "seconds", "× gifthorse", "schedule, mini-batches: L1, ASR", box=None)
    for name in SCHEDULES:
        both = [(each[name], each["gifthorse"]) for each in rounds]
        pairs = [(one.seconds, ours.seconds) for one, ours in both if one and ours]
        table.add_row(
            name,
            f"{sum(one is not None for one, _ in both)} of {len(both)}",
            spread((taken for taken, _ in pairs), ".1f") if pairs else "",
            spread(taken / ours for taken, ours in pairs) if pairs else "",
            "; ".join(
                f"{one.schedule}, {one.budget}: {one.quality.l1:.1f}, {one.quality.asr:.3f}" for one, _ in both if one
            ),
        )
    return table


def fastest(
    searches: Mapping[str, Callable[[int], Triggers]],
    good: Callable[[Quality], bool],
    judge: Callable[[Triggers], Quality],
    budgets: Sequence[int],
) -> Reached | None:
    """Return the search that was good enough in the least time; each schedule gets the first budget that suffices."""
    reached: list[Reached] = []
    for schedule, search in searches.items():
        for budget in budgets:
            taken, triggers = timed(partial(search, budget))
            if reached and taken > min(reached, key=lambda each: each.seconds).seconds:
                break  # longer ones will not be faster
            quality = judge(triggers)
            if good(quality):
                reached.append(Reached(schedule, budget, taken, quality))
                break
    return min(reached, key=lambda each: each.seconds, default=None)


def _equal_steps(task: Task, trojan: Trojan, clean: Images, steps: int, seeds: Sequence[int]) -> Table:
    searches: dict[str, Search] = {
        "gifthorse": partial(_ours, patience=steps),
        "TrojanZoo": _theirs,
        "plain loop": _plain,
    }
    model = trojan.model.clone()
    found = {name: search(model, clean, steps, seeds[0]) for name, search in searches.items()}
    rounds = [
        {name: seconds(partial(search, model, clean, steps, seed)) for name, search in searches.items()}
        for seed in seeds
    ]
    table = Table("at equal steps", "seconds", "× gifthorse", "L1, target", "L1, others", "ASR", box=None)
    for name, triggers in found.items():
        quality = _quality(task, trojan, triggers)
        table.add_row(
            name,
            spread((each[name] for each in rounds), ".1f"),
            spread(each[name] / each["gifthorse"] for each in rounds),
            f"{quality.l1:.1f}",
            f"{quality.others:.1f}",
            f"{quality.asr:.3f}",
        )
    return table


def _trojan(dataset: str, data_root: Path, folder: Path, seed: int) -> tuple[Task, Trojan]:
    cell, store = resolve(dataset=dataset, attack="badnets", seed=seed), Store(folder)
    record = Runner(store, data_root, torch.device("cpu")).run(cell)
    stored = store.load_artifact("trojan", cell.trojan_key())
    assert stored is not None, record.reason
    splits = load_splits(cell.dataset, data_root, download=False)
    task = Task(**vars(splits), architecture=cell.model, recipe=cell.training)
    return task, unpack_trojan(task, cell.attack, task.build(0), *stored)


def _ours(
    model: Classifier, clean: Images, budget: int, seed: int, batches: int = A_STEP, patience: int | None = None
) -> Triggers:
    """Search as in the laptop profile, or with another number of mini-batches between changes of the cost."""
    cleanse = NeuralCleanse(steps=max(budget // batches, 1), batches=batches, batch_size=BATCH)
    if patience is not None:
        cleanse = cleanse.model_copy(update={"early_stop_patience": patience})
    triggers = cleanse.defend(ModelView(model, clean), seed).triggers
    assert triggers is not None
    return triggers.mask, triggers.pattern


def _theirs(model: Classifier, clean: Images, budget: int, seed: int, epochs: int = EPOCHS) -> Triggers:
    """Make what `detect` makes: a mark as large as the image, searched for one class after another.

    The cost, and the cosine, change from epoch to epoch.
    """
    from trojanvision.attacks import BadNet
    from trojanvision.defenses import NeuralCleanse as TheirCleanse
    from trojanvision.environ import create
    from trojanvision.marks import Watermark
    from trojanvision.models import ImageModel

    create(device="cpu", seed=seed)
    channels, height, width = clean.shape
    wrapped = ImageModel(
        model=model, data_shape=[channels, height, width], num_classes=clean.classes, modify_first_layer_channel=False
    )
    mark = Watermark(data_shape=[channels, height, width], mark_height=height, mark_width=width)
    attack = BadNet(mark=mark, model=wrapped, train_mode="loss")  # the mode that needs no data set of theirs
    cleanse = TheirCleanse(attack=attack, model=wrapped, original=True, defense_remask_epoch=epochs)
    mark.mark = torch.zeros(channels + 1, height, width)
    images = TensorDataset(clean.pixels.float() / 255, clean.labels)
    sampler = RandomSampler(images, num_samples=max(budget // epochs, 1) * BATCH)
    loader = DataLoader(images, BATCH, sampler=sampler)
    found = torch.stack(
        [cleanse.optimize_mark(target, loader=loader, verbose=False)[0] for target in range(clean.classes)]
    )
    return found[:, -1:], found[:, :-1]


def _theirs_in_steps(model: Classifier, clean: Images, budget: int, seed: int) -> Triggers:
    """TrojanZoo with epochs as short as our steps."""
    return _theirs(model, clean, budget, seed, epochs=max(budget // A_STEP, 1))


def _plain(model: Classifier, clean: Images, budget: int, seed: int, cost: float = 1e-3) -> Triggers:
    torch.manual_seed(seed)
    return plain(model, clean.pixels, budget, cost)


SCHEDULES: dict[str, dict[str, Search]] = {
    "gifthorse": {"laptop": _ours, "one mini-batch a step": partial(_ours, batches=1)},
    "TrojanZoo": {"10 epochs": _theirs, f"epochs of {A_STEP} mini-batches": _theirs_in_steps},
    "plain loop": {f"cost {cost:g}": partial(_plain, cost=cost) for cost in (1e-3, 3e-3, 1e-2)},
}


def _quality(task: Task, trojan: Trojan, triggers: Triggers) -> Quality:
    assert trojan.backdoor is not None
    (mask, pattern), labels = triggers, task.test.labels
    wanted = trojan.backdoor.goal.targets(labels)
    target, norms = int(wanted[0]), mask.sum((1, 2, 3))
    logits = predict(trojan.model, blend(task.test.floats(), mask[target], pattern[target], 0.0))
    others = norms[torch.arange(len(norms)) != target].median()
    return Quality(float(norms[target]), float(others), attack_success_rate(logits, labels, wanted))


if __name__ == "__main__":
    main()
