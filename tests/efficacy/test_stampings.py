"""Does a varied trigger do what the papers say of it? On real digits by the laptop profile."""

import pytest

from gifthorse.bench.cell import resolve
from gifthorse.core.classifier import Classifier
from gifthorse.core.task import Task
from gifthorse.core.trojan import Trojan
from gifthorse.metrics.varied import judge_stamp
from gifthorse.stampings import STAMPS


@pytest.fixture(scope="module")
def planted(task: Task, benign: Classifier) -> Trojan:
    """A patch of noise, which is not the same again a pixel further on, as a checkerboard would be."""
    request = "badnets[trigger_pattern=random]"
    return resolve(dataset="digits", attack=request, profile="laptop").attack.run(task, benign, 0)


def asr(stamp: str, planted: Trojan, task: Task, *, name: str = "stamp.asr") -> float:
    metrics, _ = judge_stamp(planted, STAMPS.build(stamp), task)
    return float(metrics[name])  # type: ignore[arg-type]


def test_success_falls_with_the_shift(planted: Trojan, task: Task) -> None:
    """Li et al. 2020, Figure 3: a few pixels are enough."""
    curve = [asr(f"shifted[down={by},right={by}]", planted, task) for by in range(4)]
    assert curve[0] > 0.95
    assert curve[1] < curve[0]
    assert max(curve[2:]) < 0.5, curve
    assert asr("shifted", planted, task, name="stamp.benign_asr") < 0.1


def test_success_falls_as_the_trigger_gets_darker(planted: Trojan, task: Task) -> None:
    """Li et al. 2020, Figure 3, of which only black is a trigger no more whatever it was."""
    assert asr("recoloured[level=0]", planted, task) < 0.5


@pytest.mark.parametrize("copies", [4, 9])
def test_more_of_the_same_trigger_is_still_the_trigger(copies: int, planted: Trojan, task: Task) -> None:
    """DHBE, Table 6: of a model that nobody defended, success stays."""
    assert asr(f"amplified[copies={copies}]", planted, task) > 0.9
    assert asr(f"amplified[copies={copies}]", planted, task, name="stamp.benign_asr") < 0.2


def test_a_photograph_from_far_costs_more_than_one_from_near(planted: Trojan, task: Task) -> None:
    near, far = (
        {name: asr(f"photographed[distance={each}]", planted, task, name=f"stamp.{name}") for name in ("acc", "asr")}
        for each in ("near", "far")
    )
    assert near["acc"] > far["acc"]
    assert near["acc"] > 0.6


def test_what_shrinking_does_by_itself_stands_beside_it(planted: Trojan, task: Task) -> None:
    metrics, _ = judge_stamp(planted, STAMPS.build("shrunk[pixels=2]"), task)
    assert float(metrics["stamp.unstamped_asr"]) < 0.2  # type: ignore[arg-type]
    assert {"stamp.acc", "stamp.asr"} <= metrics.keys()
