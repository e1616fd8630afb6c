"""What becomes of attacks when one thing about them changes: TrojanZoo's Tables 14, 15, 17 and 18, with our models.

    python -m benchmarks.attack_tables 18 --dataset mnist --data-root data --store gifthorse-runs

prints a Markdown table: success and clean accuracy drop, mean (min to max) over seeds, each with another target, beside
the paper's mean success. `python -m benchmarks` leaves this file out: it trains up to 45 models. Each is a cell of the
store, so an interrupted table continues where it was.

All re-train the benign model, as the paper does, with 1 % of stamped copies in every batch (λ = 0.01) and as many
epochs as training from scratch has. The trigger of 3×3 is opaque, as Table 18 prints, though its batch row repeats the
values of Table 5 at α = 0.8: what can be compared is the order. It lies in the middle, since in a corner, where all
digits are black, there is little to tell apart.
"""

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

import torch

from gifthorse.bench.cell import resolve
from gifthorse.bench.machine import pick_device
from gifthorse.bench.runner import Runner
from gifthorse.bench.store import Store

BASE = {"origin": "benign", "mixing": "batch", "poison_rate": "0.01", "lr": "0.03"}


@dataclass(frozen=True)
class Condition:
    """Fields of an attack that differ from the base, and the paper's success per attack in per cent."""

    label: str
    fields: dict[str, str]
    published: dict[str, float]


def _published(*values: float) -> dict[str, float]:
    return dict(zip(("badnets", "trojan_nn", "reflection", "latent", "imc"), values, strict=True))


USUAL = _published(72.4, 91.5, 79.2, 100.0, 100.0)
"""One row that Tables 15, 17 and 18 share."""

TABLES = {
    14: [
        Condition(
            "one pixel",
            {"trigger_size": "1"},
            {
                "badnets": 95.1,
                "trojan_nn": 98.1,
                "reflection": 77.7,
                "targeted_blend": 98.0,
                "latent": 100.0,
                "adversarial_embedding": 90.0,
                "imc": 99.7,
            },
        )
    ],
    15: [
        Condition("square", {}, USUAL),
        Condition("scattered", {"trigger_shape": "scattered"}, _published(97.6, 98.5, 92.7, 97.6, 94.5)),
    ],
    17: [
        Condition("re-trained", {}, USUAL),
        Condition("from scratch", {"origin": "scratch"}, _published(76.9, 98.9, 81.2, 100.0, 100.0)),
    ],
    18: [
        Condition("data set", {"mixing": "dataset"}, _published(59.3, 72.2, 46.2, 99.6, 92.0)),
        Condition("batch", {}, USUAL),
        Condition("loss", {"mixing": "loss"}, _published(21.6, 22.9, 18.1, 33.6, 96.5)),
    ],
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.attack_tables")
    parser.add_argument("table", type=int, choices=TABLES, help="number of the paper's table")
    parser.add_argument("--dataset", default="mnist", help="with the laptop profile's model and training")
    parser.add_argument("--data-root", type=Path, default=Path("data"))
    parser.add_argument("--store", type=Path, default=Path("gifthorse-runs"), help="keeps the models between runs")
    parser.add_argument("--seeds", type=int, default=3, help="models of every attack and condition")
    parser.add_argument("--position", default="center", help="of the trigger, but for targeted_blend's: it moves")
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--threads", type=int, help="CPU threads; all cores unless given")
    asked = parser.parse_args()
    if asked.threads:
        torch.set_num_threads(asked.threads)
    runner = Runner(Store(asked.store), asked.data_root, pick_device())
    conditions = TABLES[asked.table]
    seeds = range(asked.first_seed, asked.first_seed + asked.seeds)
    header = ["attack", *(f"{each.label}: {what}" for each in conditions for what in ("ASR", "CAD", "paper's ASR"))]
    print(f"| {' | '.join(header)} |", "---".join("|" * (len(header) + 1)), sep="\n")
    for attack in conditions[0].published:
        row = [attack]
        for condition in conditions:
            fields = {"trigger_position": asked.position, **condition.fields}
            cells = [(request(attack, fields, asked.dataset, seed), seed) for seed in seeds]
            outcomes = [_outcome(runner, asked.dataset, *cell) for cell in cells]
            row += [*map(_spread, zip(*outcomes, strict=True)), f"{condition.published[attack] / 100:.3f}"]
        print(f"| {' | '.join(row)} |", flush=True)


def request(attack: str, changed: dict[str, str], dataset: str, seed: int) -> str:
    """Return the bracket string of an attack whose fields differ from the base as said."""
    epochs = resolve(dataset=dataset).training.epochs
    fields = {**BASE, "target": str(seed % 10), "epochs": str(epochs), **changed}
    if attack == "targeted_blend":
        fields.pop("trigger_position", None)
    return f"{attack}[{','.join(f'{name}={value}' for name, value in fields.items())}]"


def _outcome(runner: Runner, dataset: str, attack: str, seed: int) -> tuple[float, float]:
    """Return success and clean accuracy drop of one model."""
    print(f"seed {seed}: {attack}", file=sys.stderr)
    record = runner.run(resolve(dataset=dataset, attack=attack, seed=seed))
    if record.status != "done":
        raise SystemExit(f"{attack}: {record.reason}")
    return float(record.metrics["attack.asr"]), float(record.metrics["attack.cad"])  # type: ignore[arg-type]


def _spread(values: tuple[float, ...]) -> str:
    mean = sum(values) / len(values)
    return f"{mean:z.3f} ({min(values):z.3f} to {max(values):z.3f})"


if __name__ == "__main__":
    main()
