"""Promises of every number that a record can hold: it is declared, in its range, and heads its column by its name."""

import re
import shlex
from pathlib import Path

import pytest
import torch

import gifthorse.metrics
from gifthorse.bench.cell import resolve
from gifthorse.bench.runner import Runner
from gifthorse.bench.store import Store
from gifthorse.core.family import ATTACK, DOWNSTREAM, FAMILIES
from gifthorse.core.metric import METRICS, PERCENT, UNDECLARED, Metric
from gifthorse.core.record import Record
from gifthorse.defenses import DEFENSES
from gifthorse.training.heads import HEADS
from worlds import affordable, requests

SCOPES = {"benign", "attack", "defense", "downstream", "seconds"}


@pytest.fixture(scope="module")
def runner(tmp_path_factory: pytest.TempPathFactory) -> Runner:
    return Runner(Store(tmp_path_factory.mktemp("store")), Path("unused"), torch.device("cpu"))


def check_declared_and_in_range(record: Record) -> None:
    assert record.status == "done", record.reason
    for name, value in {**record.metrics, **{f"seconds.{k}": v for k, v in record.seconds.items()}}.items():
        unit = METRICS.find(name).unit
        assert unit is not UNDECLARED, f"{name} is not declared in core/metric.py"
        assert all(unit.low <= item <= unit.high for item in (value if isinstance(value, list) else [value])), name


def check_command(record: Record, runner: Runner) -> None:
    """The command line in the record asks for the very same cell."""
    assert record.command is not None
    program, run, *words = shlex.split(record.command)
    assert (program, run) == ("gifthorse", "run")
    said = {option[2:].replace("-", "_"): value for option, value in zip(words[::2], words[1::2], strict=True)}
    again = resolve(**{**said, "seed": int(said["seed"])})  # type: ignore[arg-type]
    assert runner.reading(again).identity() == record.id


@pytest.mark.parametrize(
    ("attack", "defense"),
    [*(("none", name) for name in DEFENSES), *(("badnets", request) for request in requests(DEFENSES))],
)
def test_what_is_said_of_a_defense_is_declared_and_in_its_range(attack: str, defense: str, runner: Runner) -> None:
    cell = resolve(dataset="digits", attack=attack, defense=defense, profile="smoke")
    assert cell.defense is not None
    affordable(cell.defense)
    record = runner.run(cell)
    check_declared_and_in_range(record)
    check_command(record, runner)


@pytest.mark.parametrize("head", requests(HEADS))
def test_what_is_said_of_a_downstream_user_is_declared_and_in_its_range(head: str, runner: Runner) -> None:
    record = runner.run(resolve(dataset="digits", attack="badnets", downstream=head, profile="smoke"))
    check_declared_and_in_range(record)
    check_command(record, runner)


def test_no_metric_is_named_in_a_judge_that_is_not_declared() -> None:
    (folder,) = gifthorse.metrics.__path__
    code = "".join(path.read_text() for path in Path(folder).glob("*.py"))
    named = set(re.findall(rf'"((?:{"|".join(SCOPES)})\.[a-z_]+)"', code))
    assert {"attack.acc", "defense.hit"} <= named
    assert {name for name in named if METRICS.find(name).unit is UNDECLARED} == set()


def test_every_metric_is_explained_and_has_a_range() -> None:
    for metric in METRICS.values():
        assert metric.scope in SCOPES
        assert metric.title
        assert metric.help
        assert metric.unit.low < metric.unit.high
    assert len({metric.title for metric in METRICS.values()}) == len(METRICS)


@pytest.mark.parametrize(
    ("name", "model"),
    [("benign.acc", "benign model"), ("attack.twin_acc", "twin"), ("attack.acc", "trojan"), ("benign.asr", "twin")],
)
def test_a_title_says_of_which_model_the_number_is(name: str, model: str) -> None:
    assert METRICS[name].title.startswith(f"{model}: ")


def test_every_column_is_a_declared_metric_with_a_short_heading() -> None:
    for table in (ATTACK, DOWNSTREAM, *FAMILIES.values()):
        assert [name for name in table.columns if not METRICS[name].short] == []


@pytest.mark.parametrize("name", DEFENSES)
def test_every_defense_is_of_a_declared_family(name: str) -> None:
    assert DEFENSES[name].family in FAMILIES


def test_a_name_means_one_thing() -> None:
    asr = METRICS["attack.asr"]
    METRICS.add(asr)
    with pytest.raises(ValueError, match=r"'attack\.asr' is declared already"):
        METRICS.add(Metric("attack.asr", "another", "attack", PERCENT, True, "something else"))
    assert METRICS["attack.asr"] is asr


def test_readouts_of_ones_own_are_declared_as_a_family_of_names() -> None:
    assert METRICS.find("defense.aiv_mine") is METRICS["defense.aiv_*"]
    assert METRICS.find("defense.aiv_log") is METRICS["defense.aiv_log"]
    assert METRICS.find("defense.aix").unit is UNDECLARED
