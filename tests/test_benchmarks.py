"""Benchmarks ask for what can be carried out, and time what they say."""

import json
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from benchmarks import dhbe_gpu
from benchmarks.against_trojanzoo import Quality, Reached, Triggers, fastest
from benchmarks.dhbe import Floor
from benchmarks.tables import make_store
from benchmarks.timing import Pairs, seconds, spread
from torch.utils.flop_counter import FlopCounterMode

from gifthorse.bench.query import read_records
from gifthorse.bench.store import Store
from gifthorse.core.views import DataFreeView
from gifthorse.defenses.sanitization.dhbe import Dhbe, Distillation
from gifthorse.models.resnet import ResNet18


def test_waiting_costs_nothing_and_a_process_waited_for_does() -> None:
    assert seconds(lambda: time.sleep(0.3)) < 0.1
    busy = "import time\nwhile time.process_time() < 0.3: pass"
    assert 0.3 <= seconds(lambda: subprocess.run([sys.executable, "-c", busy], check=True)) < 1


def test_work_is_timed_on_one_thread() -> None:
    before, during = torch.get_num_threads(), []
    seconds(lambda: during.append(torch.get_num_threads()))
    assert (during, torch.get_num_threads()) == ([1], before)


def test_pairs_are_compared_round_by_round() -> None:
    pairs = Pairs([(1.0, 2.0), (2.0, 3.0), (1.0, 8.0)])
    assert (pairs.ours, pairs.plain) == (1.0, 3.0)
    assert pairs.faster() == "2.00 (1.50 to 8.00)"
    assert pairs.slower("g") == "0.5 (0.125 to 0.666667)"
    assert pairs.added(".0%") == "-50% (-88% to -33%)"
    assert spread([3, 1, 2], "d") == "2 (1 to 3)"


def test_the_fastest_search_that_is_good_enough_counts_at_the_least_budget_that_suffices() -> None:
    def burn(cost: float, strength: float, budget: int) -> Triggers:
        end = time.process_time() + cost * budget
        while time.process_time() < end:
            pass
        return torch.full((1, 1, 1, 1), 100 / (strength * budget)), torch.zeros(1, 1, 1, 1)

    def compare(*names: str) -> Reached | None:
        chosen = {name: partial(burn, *searches[name]) for name in names}
        judge = lambda found: Quality(float(found[0]), 0.0, 1.0)  # noqa: E731
        return fastest(chosen, lambda quality: quality.l1 <= 2, judge, (10, 50, 100))

    searches = {"slow": (1e-2, 5.0), "quick": (1e-3, 1.0), "never": (1e-6, 0.1)}
    for names in (("slow", "quick", "never"), ("never", "quick", "slow")):
        found = compare(*names)
        assert found is not None
        assert (found.schedule, found.budget, found.quality.l1) == ("quick", 50, 2.0)
        assert 0.05 <= found.seconds < 0.1
    assert compare("never") is None


def test_the_benchmark_of_a_gpu_runs_on_a_cpu_at_a_small_size(tmp_path: Path) -> None:
    out = tmp_path / "results" / "dhbe_gpu.json"
    small = ["--width", "2", "--batch-size", "4", "--generators", "2", "--device", "cpu"]
    dhbe_gpu.main(["--out", str(out), *small, "--iterations", "5", "--warm", "1", "--full", "--schedule", "2"])
    found = json.loads(out.read_text())
    assert found["seconds_per_iteration"] > 0
    assert found["ratio_to_floor"] > 0.5
    assert found["predicted_minutes"] == found["seconds_per_iteration"] * 2 / 60
    assert found["timed_iterations"] == 5
    assert (found["precision"], found["host_syncs"]) == ("float32", None)
    assert found["settings"]["student_steps"] == 5
    assert found["machine"]["torch"] == torch.__version__
    assert found["full_minutes"] > 0
    assert 0 <= found["agreement_on_samples"] <= 1


def test_an_iteration_of_dhbe_has_the_passes_that_its_benchmark_names() -> None:
    """41 forward passes of the classifier and 8 of each generator, and the floor has as many."""
    settings = Dhbe(batch_size=2, width=8, noise=8)
    view = DataFreeView(ResNet18(width=4).build((3, 32, 32), 10, 0).eval(), shape=(3, 32, 32))
    found = Distillation(settings, view, 0)

    def operations(work: Callable[[], object]) -> int:
        with FlopCounterMode(display=False) as counter:
            work()
        count: int = counter.get_total_flops()
        return count

    with torch.no_grad():
        parts = [operations(partial(each, found.draw())) for each in (found.samples, found.patches)]
        named = 41 * operations(lambda: found.teacher(torch.rand(2, 3, 32, 32))) + 8 * sum(parts)
    floor = Floor(view.model, (3, 32, 32), settings)
    for work in (found.iterate, lambda: floor.run(1)):
        assert 0.97 < operations(work) / named < 1.01


def test_the_synthetic_records_are_records(tmp_path: Path) -> None:
    make_store(tmp_path, 300)
    found = read_records(tmp_path)
    assert (len(found.records), found.damaged) == (300, [])
    assert found.records == list(Store(tmp_path).records())
