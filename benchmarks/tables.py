"""What a person with ten thousand records waits for: a table of them, a list, a file with all of them."""

import json
import random
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.timing import Row, seconds
from gifthorse.core.seal import sealed

RECORDS = 10_000
ATTACKS, DEFENSES, SEEDS = 25, 8, 50
FAMILIES = ("reformation", "filtering", "sanitization", "inspection")
COMMANDS = {
    "gifthorse table": ["table"],
    "gifthorse table --interval, one metric": ["table", "--interval", "--metric", "defense.asr"],
    "gifthorse ls": ["ls"],
    "gifthorse export, CSV": ["export", "--out", "records.csv"],
}


def measure() -> list[Row]:
    program = Path(sys.executable).with_name("gifthorse")
    with tempfile.TemporaryDirectory() as folder:
        make_store(Path(folder, "gifthorse-runs"))

        def call(arguments: list[str]) -> float:
            return seconds(
                lambda: subprocess.run([str(program), *arguments], cwd=folder, capture_output=True, check=True)
            )

        rows: list[Row] = []
        for name, arguments in COMMANDS.items():
            call(arguments)
            taken = statistics.median(call(arguments) for _ in range(5))
            aim = "< 2 s" if arguments[0] == "table" else ""
            rows.append((f"{name}, {RECORDS:,} records", f"{taken:.2f} s", aim, "median of 5, new process"))
    return rows


def make_store(root: Path, count: int = RECORDS) -> None:
    """Write records as a study of attacks × defenses × seeds leaves them, with numbers out of the air."""
    (root / "records").mkdir(parents=True)
    numbers = random.Random(0)
    for place in range(count):
        document = synthetic(place, numbers)
        (root / "records" / f"{document['id']}.json").write_text(sealed(json.dumps(document, indent=1)))


def synthetic(place: int, numbers: random.Random) -> dict[str, Any]:
    seed, rest = place % SEEDS, place // SEEDS
    attack, defense = rest % ATTACKS, rest // ATTACKS % DEFENSES
    family = FAMILIES[defense % len(FAMILIES)]
    measured = ("acc", "asr", "tmc", "cad", "ccc", "ard", "tpr", "fpr", "auroc", "f1", "index", "aiv")
    return {
        "schema": 1,
        "id": f"{place:024x}",
        "status": "failed" if place % 97 == 0 else "done",
        "reason": "ValueError: synthetic" if place % 97 == 0 else None,
        "dataset": {"name": "digits", "size": 16, "train": None, "holdout": 200, "test": 400},
        "data_digest": "0" * 24,
        "class_names": [str(label) for label in range(10)],
        "file_digests": {},
        "model": {"name": "small_cnn", "width": 16, "embedding": 64},
        "training": {"name": "standard", "epochs": 20, "batch_size": 128, "lr": 0.1, "schedule": "one_cycle"},
        "profile": "laptop",
        "seed": seed,
        "attack": {"name": f"attack{attack // 5}", "poison_rate": (attack % 5 + 1) / 100, "target": 0}
        | {f"setting_{number}": number for number in range(15)},
        "defense": {"name": f"defense{defense}"} | {f"setting_{number}": number for number in range(10)},
        "family": family,
        "downstream": None,
        "metrics": {"attack.acc": 0.99, "attack.asr": numbers.random(), "attack.cad": 0.0, "attack.valid": True}
        | {f"benign.{name}": numbers.random() for name in ("acc", "chance", "asr")}
        | {f"defense.{name}": numbers.random() for name in measured}
        | {"defense.scores": [numbers.random() for _ in range(10)]},
        "doubts": [],
        "seconds": {"benign": 12.3, "attack": 7.4, "judgement": 0.1, "defense": numbers.random()},
        "peak_memory_mb": 800,
        "artifacts": dict.fromkeys(("benign", "trojan", "judgement", "evidence"), f"{place:024x}"),
        "environment": {
            "gifthorse": "0.1.0",
            "commit": "0" * 40,
            "dirty": False,
            "python": "3.11.7",
            "torch": "2.10.0",
            "device": "cpu",
            "threads": 1,
        },
        "created": f"2026-01-01T{place // 3600:02}:{place // 60 % 60:02}:{place % 60:02}.000+00:00",
    }
