"""What a grid costs beyond its work: planning, keeping, answering again, and sharing it between processes."""

import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import torch

from benchmarks.timing import Row, seconds
from gifthorse.bench.cell import resolve
from gifthorse.bench.execution import Processes, run_cells
from gifthorse.bench.runner import Runner
from gifthorse.bench.store import Store
from gifthorse.core.record import Record

QUICK = {"dataset": "digits", "training": "standard[epochs=1]", "profile": "smoke", "attack": "badnets"}
MANY, STORED = 1000, 10_000
NEW = 20


def measure() -> list[Row]:
    with tempfile.TemporaryDirectory() as folder:
        runner = Runner(Store(Path(folder, "store")), Path("data"), torch.device("cpu"))
        (record,) = run_cells(runner, [resolve(**QUICK)])  # type: ignore[arg-type]
        return [_overhead(runner, record), *_again(Path(folder), record), _sharing(Path(folder))]


def _overhead(runner: Runner, record: Record) -> Row:
    """Compare cells with what is measured of them, in a store that holds many records already."""
    for number in range(STORED):
        runner.store.save_record(record.model_copy(update={"id": f"{number:024x}"}))
    cells = [resolve(**QUICK, defense=f"shrinkpad[shrink={1 + number}]") for number in range(4)]  # type: ignore[arg-type]
    cells = [replace(cell, profile=f"{number}") for number in range(NEW // 4) for cell in cells]
    inside, original = [], Runner._measure

    def measured(*arguments: object) -> Record:
        taken, found = _timed(lambda: original(*arguments))  # type: ignore[arg-type]
        inside.append(taken)
        return found

    Runner._measure = measured  # type: ignore[method-assign, assignment]
    try:
        total = seconds(lambda: run_cells(runner, cells))
    finally:
        Runner._measure = original  # type: ignore[method-assign]
    overhead = 1000 * (total - sum(inside)) / NEW
    return ("a cell beyond its work", f"{overhead:.0f} ms", "≤ 50 ms", f"{NEW} cells, {STORED:,} records in the store")


def _timed(work: "object") -> tuple[float, Record]:
    start = time.process_time()
    found: Record = work()  # type: ignore[operator]
    return time.process_time() - start, found


def _again(folder: Path, record: Record) -> list[Row]:
    """Answer a finished grid: the first time its records are found, from then on the answers."""
    store = Store(folder / "finished")
    finished = Runner(store, Path("data"), torch.device("cpu"))
    for seed in range(MANY):
        cell = finished.reading(resolve(**QUICK, seed=seed))
        store.save_record(record.model_copy(update={"id": cell.identity(), "seed": seed}))
    study = {**QUICK, "seed": f"0..{MANY - 1}"}
    text = "\n".join(f"{key} = {json.dumps(value)}" for key, value in study.items())
    (folder / "study.toml").write_text(text)
    command = [str(Path(sys.executable).with_name("gifthorse")), "grid", "study.toml", "--store", "finished"]
    environment = {**os.environ, "XDG_CACHE_HOME": str(folder)}

    def call() -> float:
        return seconds(lambda: subprocess.run(command, cwd=folder, env=environment, capture_output=True, check=True))

    first, again = call(), statistics.median(call() for _ in range(3))
    return [
        (f"grid of {MANY:,} finished cells", f"{first:.1f} s", "", "first time: records are found"),
        (f"grid of {MANY:,} finished cells, again", f"{again:.1f} s", "≤ 5 s", "median of 3, new process"),
    ]


def _sharing(folder: Path) -> Row:
    """Compare two processes with one, in time on the wall: the one figure that other work on the machine spoils."""
    torch.set_num_threads(1)
    requests = itertools.product(("badnets", "imc"), ("strip", "neural_cleanse"), range(4))
    cells = [
        resolve(**{**QUICK, "training": "standard[epochs=10]", "attack": attack, "defense": defense, "seed": seed})  # type: ignore[arg-type]
        for attack, defense, seed in requests
    ]
    took = {}
    for jobs in (1, 2):
        runner = Runner(Store(folder / f"jobs-{jobs}"), Path("data"), torch.device("cpu"))
        torch.set_num_threads(jobs)
        start = time.perf_counter()
        run_cells(runner, cells, pool=Processes(runner, jobs))
        took[jobs] = time.perf_counter() - start
    torch.set_num_threads(1)
    how = f"{len(cells)} cells, wall time, one thread each; {took[1]:.0f} s alone"
    return ("two jobs over one", f"{took[1] / took[2]:.2f}×", "≥ 1.7×", how)
