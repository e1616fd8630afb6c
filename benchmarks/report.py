"""The report of 1,000 cells: how long it takes to write, in how much memory, and how large it is."""

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.timing import Row
from gifthorse.bench.cell import resolve
from gifthorse.bench.store import Arrays, Store
from gifthorse.core.metric import METRICS, PERCENT
from gifthorse.core.record import Record

ATTACKS = (
    "none",
    "badnets",
    "badnets[poison_rate=0.01]",
    "targeted_blend",
    "trojan_nn",
    "imc",
    "latent",
    "adversarial_embedding",
    "refool",
    "reflection",
)
DEFENSES = (
    "shrinkpad",
    "shrinkpad[shrink=6]",
    "strip",
    "strip[fpr=0.01]",
    "fine_pruning",
    "neural_cleanse",
    "tabor",
    "abs",
    "deep_inspect",
    "neuron_inspect",
)
SEEDS = 10
# What the system counts as the peak of a process holds that of the one that started it; this is of its own memory.
SCRIPT = """
import re, sys, time
from pathlib import Path
from gifthorse.cli.main import cli
cli(sys.argv[1:], standalone_mode=False)
peak = re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())
print(time.process_time(), int(peak[1]) / 1024)
"""
CLASSES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
SHAPE, PICTURES, IMAGES = (3, 32, 32), 8, 500


def cells(seeds: int = SEEDS) -> Iterator[tuple[Record, Arrays]]:
    """Yield records of ten attacks and ten defenses as CIFAR-10 leaves them, and the arrays behind each."""
    random = np.random.default_rng(0)
    clean = _pictures(random, PICTURES)
    for attack, seed in product(ATTACKS, range(seeds)):
        arrays = {"clean": clean}
        if attack != "none":
            arrays["stamped"] = clean.copy()
            arrays["stamped"][..., -4:-1, -4:-1] = random.integers(0, 256, (3, 3, 3), np.uint8)
        for defense in DEFENSES:
            metrics, found = _judged(defense, attack != "none", random)
            record = _record(attack, defense, seed, metrics)
            yield record, {**arrays, **found} if record.status == "done" else {}


def measure() -> list[Row]:
    with tempfile.TemporaryDirectory() as folder:
        store, out = Store(Path(folder, "store")), Path(folder, "report.html")
        for record, arrays in cells():
            store.save_record(record)
            store.save_artifact("evidence", record.id, arrays, {})
        command = [sys.executable, "-c", SCRIPT, "report", str(store.root), "--out", str(out)]
        printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        taken, memory, size = *map(float, printed.split()), out.stat().st_size / 1e6
    what = f"report of {len(ATTACKS) * len(DEFENSES) * SEEDS:,} cells"
    return [
        (f"{what}: time", f"{taken:.1f} s", "< 10 s", "new process, a store of CIFAR-10"),
        (f"{what}: memory", f"{memory:.0f} MB", "< 500 MB", "peak of that process"),
        (f"{what}: size", f"{size:.1f} MB", "< 10 MB", "of the HTML file"),
    ]


def _record(attack: str, defense: str, seed: int, metrics: dict[str, Any]) -> Record:
    cell = resolve(dataset="cifar10", attack=attack, defense=defense, seed=seed)
    assert cell.defense is not None
    status, reason = "done", None
    if defense == "abs" and attack == "latent":
        status, reason = "skipped", "needs the activations of a convolution; this model shows none"
    elif defense == "tabor" and seed == 3:
        status, reason = "failed", "FloatingPointError: the loss of 3 of 10 classes is not finite"
    if attack == "badnets[poison_rate=0.01]":
        metrics |= {"attack.asr": 0.41, "attack.valid": False}
    measured = metrics if status == "done" else {k: v for k, v in metrics.items() if "defense." not in k}
    return Record.model_validate(
        {
            "id": f"{attack}-{defense}-{seed}".replace("[", "-").replace("]", ""),
            "status": status,
            "reason": reason,
            "dataset": cell.dataset.to_dict(),
            "data_digest": "0123456789abcdef01234567",
            "class_names": CLASSES,
            "model": cell.model.to_dict(),
            "training": cell.training.to_dict(),
            "profile": "laptop",
            "seed": seed,
            "attack": cell.attack.to_dict(),
            "defense": cell.defense.to_dict(),
            "family": cell.defense.family,
            "metrics": measured,
            "counts": {name: IMAGES for name in measured if METRICS.find(name).unit == PERCENT},
            "doubts": [] if metrics.get("attack.valid", True) else ["success rate 0.410, under 0.8"],
            "seconds": {"benign": 60.1, "attack": 61.3, "judgement": 0.9, "defense": 12.5, "defense_per_input": 0.002},
            "peak_memory_mb": 700,
            "environment": {
                "gifthorse": "0.1.0",
                "commit": "0123456789abcdef0123456789abcdef01234567",
                "dirty": False,
                "python": "3.11.2",
                "torch": "2.14.0",
                "device": "cpu",
                "threads": 2,
            },
            "created": f"2026-11-{1 + seed:02}T00:00:00.000+00:00",
        }
    )


def _judged(defense: str, planted: bool, random: np.random.Generator) -> tuple[dict[str, Any], Arrays]:
    """Return the numbers and arrays that a defense of each kind leaves."""
    share = random.random(20).round(4).tolist()
    metrics: dict[str, Any] = {"benign.acc": 0.91, "benign.chance": 0.1, "attack.acc": 0.9, "attack.ccc": 0.88}
    if planted:
        metrics |= {"benign.asr": 0.01, "attack.asr": 0.97, "attack.targets": [0.0], "attack.tmc": 0.95}
        metrics |= {"attack.twin_acc": 0.905, "attack.cad": 0.005, "attack.valid": True}
    name = defense.partition("[")[0]
    if name in ("shrinkpad", "fine_pruning"):
        metrics |= {"defense.acc": share[0], "defense.ccc": share[1], "defense.cad": 0.9 - share[0]}
        if planted:
            metrics |= {"defense.asr": share[2], "defense.tmc": share[3], "defense.ard": 0.97 - share[2]}
        return metrics, {"reformed": _pictures(random, PICTURES)} if name == "shrinkpad" else {}
    if name == "strip":
        scores = {"clean_scores": random.normal(-1, 0.3, IMAGES), "threshold": np.array(-0.4)}
        metrics["defense.fpr"] = share[0] / 10
        if planted:
            scores["stamped_scores"] = random.normal(-0.3, 0.2, IMAGES)
            for place, metric in enumerate(("tpr", "precision", "recall", "f1", "accuracy", "auroc"), 1):
                metrics[f"defense.{metric}"] = share[place]
        return metrics, scores
    norms = random.uniform(10, 60, len(CLASSES)).round(3)
    suspect = int(norms.argmin())
    metrics |= {"defense.index": 1.5 + share[0], "defense.aiv": 1.5 + share[0], "defense.aiv_log": 2 + share[1]}
    metrics |= {"defense.aiv_ratio": 1 + share[2], "defense.flagged": share[0] > 0.5}
    metrics |= {"defense.scores": (-norms).tolist(), "defense.held_out_asr": share[: len(CLASSES)]}
    if share[0] > 0.5:
        metrics["defense.suspect_class"] = suspect
    if planted:
        metrics |= {"defense.hit": suspect == 0, "defense.mln": float(norms[0]), "defense.mjs": share[3]}
        metrics["defense.recovered_asr"] = share[4]
    if name == "neuron_inspect":
        return metrics, {}
    return metrics, {"masks": _masks(norms, random), "patterns": _pictures(random, len(CLASSES))}


def _pictures(random: np.random.Generator, count: int) -> np.ndarray:
    """Return pictures ``uint8 (count, C, H, W)`` with the coarse shapes and the fine grain of photographs."""
    channels, height, width = SHAPE
    coarse = random.uniform(0, 255, (count, channels, height // 4, width // 4)).repeat(4, 2).repeat(4, 3)
    grain = random.normal(0, 3, (count, channels, height, width))
    levels: np.ndarray = np.clip(coarse + grain, 0, 255).astype(np.uint8)
    return levels


def _masks(norms: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Return masks ``(K, 1, H, W)`` of these L1 norms: a spot each, with a trace of noise all over."""
    _, height, width = SHAPE
    rows, columns = np.mgrid[:height, :width]
    centres = random.uniform(4, 28, (2, len(norms), 1, 1))
    spots = np.exp(-((rows - centres[0]) ** 2 + (columns - centres[1]) ** 2) / norms[:, None, None])
    masks = spots + random.uniform(0, 0.004, spots.shape)
    scaled: np.ndarray = (masks * (norms / masks.sum((1, 2)))[:, None, None])[:, None].astype(np.float32)
    return scaled
