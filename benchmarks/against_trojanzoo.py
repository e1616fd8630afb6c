"""Neural Cleanse beside TrojanZoo's own and beside a plain loop: equal images and mini-batches, one trojaned model.

TrojanZoo is no dependency of this project and `python -m benchmarks` leaves this file out; to run it:

    pip install trojanzoo 'matplotlib<3.9'
    python -m benchmarks.against_trojanzoo --data-root data --store gifthorse-runs

TrojanZoo 2.0.3 searches as published: cost 1e-3, Adam 0.1 with a cosine over 10 epochs, one class after another. All
that its example sets up around `optimize_mark` is left out, in its favour: images are tensors in memory that no worker
process loads, and the two validations per class on the whole test set are not made. We search as in the `laptop`
profile (the cost may change after every fourth mini-batch) and never stop early, so that the mini-batches stay equal.
"""

import argparse
import statistics
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.neural_cleanse import BATCH, plain
from benchmarks.timing import seconds
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

Triggers = tuple[Tensor, Tensor]
"""Masks ``(K, 1, H, W)`` and patterns ``(K, C, H, W)`` of all classes."""


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.against_trojanzoo")
    parser.add_argument("--dataset", default="mnist", help="with the laptop profile's model, attacked by badnets")
    parser.add_argument("--data-root", type=Path, default=Path("data"))
    parser.add_argument("--store", type=Path, default=Path("gifthorse-runs"), help="keeps the model between runs")
    parser.add_argument("--batches", type=int, default=20, help=f"mini-batches per epoch of {BATCH} images each")
    parser.add_argument("--rounds", type=int, default=3, help="timed rounds, after one that warms up")
    parser.add_argument("--seed", type=int, default=0, help="of model and searches")
    asked = parser.parse_args()
    try:
        import trojanvision.defenses  # noqa: F401
    except ImportError as error:
        parser.exit(2, f"this needs TrojanZoo: pip install trojanzoo 'matplotlib<3.9' ({error})\n")

    task, trojan = _trojan(asked.dataset, asked.data_root, asked.store, asked.seed)
    clean, steps = task.holdout.take(slice(asked.batches * BATCH)), EPOCHS * asked.batches
    if len(clean) < asked.batches * BATCH:
        parser.error(f"--batches: {len(clean)} clean images make at most {len(clean) // BATCH}")
    searches: dict[str, Callable[[], Triggers]] = {
        "gifthorse": lambda: _ours(trojan.model.clone(), clean, steps, asked.seed),
        "TrojanZoo": lambda: _theirs(trojan.model.clone(), clean, asked.seed),
        "plain loop": lambda: _plain(trojan.model.clone(), clean, steps, asked.seed),
    }
    found = {name: search() for name, search in searches.items()}
    rounds = []
    for _ in range(asked.rounds):
        rounds.append({name: seconds(search) for name, search in searches.items()})
        print(*(f"{name} {taken:.1f} s" for name, taken in rounds[-1].items()), sep=", ", file=sys.stderr)

    table = Table("Neural Cleanse", "seconds", "× gifthorse", "L1, target", "L1, others", "ASR", box=None)
    for name, (mask, pattern) in found.items():
        taken = statistics.median(each[name] for each in rounds)
        ratio = statistics.median(each[name] / each["gifthorse"] for each in rounds)
        table.add_row(name, f"{taken:.1f}", f"{ratio:.2f}", *_quality(task, trojan, mask, pattern))
    Console(width=120).print(table)
    print(f"{clean.classes} classes × {steps} mini-batches × {BATCH} images; median of {asked.rounds} paired runs")
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, seed {asked.seed}")


def _trojan(dataset: str, data_root: Path, folder: Path, seed: int) -> tuple[Task, Trojan]:
    cell, store = resolve(dataset=dataset, attack="badnets", seed=seed), Store(folder)
    record = Runner(store, data_root, torch.device("cpu")).run(cell)
    stored = store.load_artifact("trojan", cell.trojan_key())
    assert stored is not None, record.reason
    splits = load_splits(cell.dataset, data_root, download=False)
    task = Task(**vars(splits), architecture=cell.model, recipe=cell.training)
    return task, unpack_trojan(task, cell.attack, task.build(0), *stored)


def _ours(model: Classifier, clean: Images, steps: int, seed: int) -> Triggers:
    cleanse = NeuralCleanse(steps=steps // A_STEP, batches=A_STEP, batch_size=BATCH, early_stop_patience=steps)
    triggers = cleanse.defend(ModelView(model, clean), seed).triggers
    assert triggers is not None
    return triggers.mask, triggers.pattern


def _theirs(model: Classifier, clean: Images, seed: int) -> Triggers:
    """Make what `detect` makes: a mark as large as the image, searched for one class after another."""
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
    cleanse = TheirCleanse(attack=attack, model=wrapped, original=True, defense_remask_epoch=EPOCHS)
    mark.mark = torch.zeros(channels + 1, height, width)
    loader = DataLoader(TensorDataset(clean.pixels.float() / 255, clean.labels), BATCH, shuffle=True)
    found = torch.stack(
        [cleanse.optimize_mark(target, loader=loader, verbose=False)[0] for target in range(clean.classes)]
    )
    return found[:, -1:], found[:, :-1]


def _plain(model: Classifier, clean: Images, steps: int, seed: int) -> Triggers:
    torch.manual_seed(seed)
    return plain(model, clean.pixels, steps)


def _quality(task: Task, trojan: Trojan, mask: Tensor, pattern: Tensor) -> tuple[str, str, str]:
    """The target's L1, the median of the others', and the target's ASR on test images of other classes."""
    assert trojan.backdoor is not None
    labels = task.test.labels
    wanted = trojan.backdoor.goal.targets(labels)
    target, norms = int(wanted[0]), mask.sum((1, 2, 3))
    logits = predict(trojan.model, blend(task.test.floats(), mask[target], pattern[target], 0.0))
    others = norms[torch.arange(len(norms)) != target].median()
    return f"{norms[target]:.1f}", f"{others:.1f}", f"{attack_success_rate(logits, labels, wanted):.3f}"


if __name__ == "__main__":
    main()
