"""Promises of every number that a record can hold: it is declared, in its range, and heads its column by its name."""

import re
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import gifthorse.metrics
from gifthorse.analyses import ANALYSES
from gifthorse.attacks import ATTACKS
from gifthorse.bench.cell import resolve
from gifthorse.bench.runner import Runner
from gifthorse.bench.store import Store
from gifthorse.core.family import ATTACK, DOWNSTREAM, FAMILIES, STAMP
from gifthorse.core.goal import Goal
from gifthorse.core.metric import FRACTION, METRICS, PERCENT, POINTS, UNDECLARED, Metric
from gifthorse.core.record import Record
from gifthorse.core.task import Task
from gifthorse.defenses import DEFENSES
from gifthorse.inversion.inspector import HELD_OUT
from gifthorse.metrics import attacks, heat
from gifthorse.metrics.input_screen import SCREENED
from gifthorse.metrics.reactions import COMPARED
from gifthorse.stampings import STAMPS
from gifthorse.training.heads import HEADS
from worlds import affordable, digits_task, requests

SCOPES = {"benign", "attack", "defense", "downstream", "stamp", "analysis", "seconds"}


@pytest.fixture(scope="module")
def runner(tmp_path_factory: pytest.TempPathFactory) -> Runner:
    return Runner(Store(tmp_path_factory.mktemp("store")), Path("unused"), torch.device("cpu"))


def check_declared_and_in_range(record: Record) -> None:
    assert record.status == "done", record.reason
    for name, value in {**record.metrics, **{f"seconds.{k}": v for k, v in record.seconds.items()}}.items():
        unit = METRICS.find(name).unit
        assert unit is not UNDECLARED, f"{name} is not declared in core/metric.py"
        assert all(unit.low <= item <= unit.high for item in (value if isinstance(value, list) else [value])), name


def goal_of(record: Record, task: Task) -> Goal:
    goal = ATTACKS.build(record.attack).goal(task)
    assert goal is not None
    return goal


def of_test_images(record: Record, task: Task) -> int:
    return len(task.test)


def stamped(record: Record, task: Task) -> int:
    return int(goal_of(record, task).sources(task.test.labels).sum())


def successful(asr: str) -> "Rule":
    return lambda record, task: round(float(record.metrics[asr]) * RULES[asr](record, task))  # type: ignore[arg-type, operator]


def attacked(record: Record, task: Task) -> int:
    return min(attacks.ATTACKED, len(task.test))


def of_each_target(record: Record, task: Task) -> list[int]:
    labels, goal = task.test.labels, goal_of(record, task)
    reached = goal.targets(labels)[goal.sources(labels)]
    return [int((reached == target).sum()) for target in goal.classes()]


def of_the_weakest_target(record: Record, task: Task) -> int:
    rates = record.metrics["attack.asr_by_target"]
    assert isinstance(rates, list)
    return of_each_target(record, task)[rates.index(min(rates))]


def of_answered_all(record: Record, task: Task) -> int:
    """A filter is asked about stamped images of other classes than the target alone."""
    return screened_stamped(record, task) if record.family == "filtering" else len(task.test)


def of_other_classes(record: Record, task: Task) -> int:
    return task.classes - len(goal_of(record, task).classes() if record.attack["name"] != "none" else ())


def rightly_answered(acc: str, images: Callable[[Record, Task], int]) -> "Rule":
    """As many as are stamped, but for those that are wrong without a trigger, whatever class these are of."""

    def rule(record: Record, task: Task) -> int:
        wrong = round((1 - float(record.metrics[acc])) * len(task.test))  # type: ignore[arg-type]
        found = record.counts[f"{acc.partition('.')[0]}.asr_restricted"]
        assert isinstance(found, int)
        assert images(record, task) - wrong <= found <= images(record, task)
        return found

    return rule


def compared(record: Record, task: Task) -> int:
    return int(goal_of(record, task).sources(task.test.labels[:COMPARED]).sum())


def of_maps(record: Record, task: Task) -> int:
    return min(int(goal_of(record, task).sources(task.test.labels).sum()), heat.COMPARED)


def of_other_sources(record: Record, task: Task) -> int:
    unwanted = goal_of(record, task).unwanted(task.test.labels)
    assert unwanted is not None
    return int((unwanted != task.test.labels).sum())


def delivered_clean(record: Record, task: Task) -> int:
    return len(task.train)


def delivered_stamped(record: Record, task: Task) -> int:
    """Copies that are added, so that the poison rate is their share of all."""
    rate = float(record.attack.get("poison_rate", 0.0))
    return round(rate / (1 - rate) * len(task.train))


def delivered(record: Record, task: Task) -> int:
    return delivered_clean(record, task) + delivered_stamped(record, task)


def screened_clean(record: Record, task: Task) -> int:
    if record.family == "training_set_filtering":
        return delivered_clean(record, task)
    return min(SCREENED, len(task.test))


def screened_stamped(record: Record, task: Task) -> int:
    if record.family == "training_set_filtering":
        return delivered_stamped(record, task)
    return min(SCREENED, stamped(record, task))


def of_answered_images(record: Record, task: Task) -> int:
    """A filter that answers as well is asked about no more images than it filters."""
    return screened_clean(record, task) if record.family == "filtering" else len(task.test)


def of_answered_stamped(record: Record, task: Task) -> int:
    return screened_stamped(record, task) if record.family == "filtering" else stamped(record, task)


def every_try(of: "Rule") -> "Rule":
    """As many images, however often they were tried before."""
    return lambda record, task: [of(record, task)] * record.stamp["tries"]  # type: ignore[list-item, index]


def screened(record: Record, task: Task) -> int:
    return screened_clean(record, task) + screened_stamped(record, task)


def flagged(record: Record, task: Task) -> int:
    fpr, tpr = (float(record.metrics[f"defense.{name}"]) for name in ("fpr", "tpr"))  # type: ignore[arg-type]
    return round(fpr * screened_clean(record, task)) + round(tpr * screened_stamped(record, task))


def held_out(record: Record, task: Task) -> list[int]:
    """Every class's trigger is tried on the held-out images of all others; ABS has no trigger for some classes."""
    found = record.counts["defense.held_out_asr"]
    assert isinstance(found, list)
    assert len(found) == task.classes
    total = round(HELD_OUT * len(task.holdout))
    if record.defense is not None and record.defense["name"] == "abs":
        assert all(count == 0 or 0.7 * total < count < total for count in found)
    else:
        assert sum(total - count for count in found) == total
    return found


Rule = Callable[[Record, Task], int | list[int]]
RULES: dict[str, Rule] = {
    **dict.fromkeys(["benign.acc", "benign.chance", "attack.acc", "attack.ccc"], of_test_images),
    **dict.fromkeys(["attack.twin_acc", "attack.cad", "downstream.acc", "downstream.cad", "stamp.acc"], of_test_images),
    **dict.fromkeys(["defense.acc", "defense.ccc", "defense.cad"], of_answered_images),
    **dict.fromkeys(["attack.asr", "benign.asr", "defense.unstamped_asr"], stamped),
    **dict.fromkeys(["defense.asr", "defense.ard"], of_answered_stamped),
    "attack.asr_all": of_test_images,
    "defense.asr_all": of_answered_all,
    "defense.false_positive_classes": of_other_classes,
    **dict.fromkeys(["downstream.asr", "downstream.benign_asr", "defense.recovered_asr"], stamped),
    **dict.fromkeys(["stamp.asr", "stamp.benign_asr", "stamp.unstamped_asr", "stamp.requery_asr"], stamped),
    "stamp.requery_asr_by_tries": every_try(stamped),
    **{f"{stage}.tmc": successful(f"{stage}.asr") for stage in ("attack", "defense", "downstream", "stamp")},
    **dict.fromkeys(["benign.adversarial_acc", "attack.adversarial_acc"], attacked),
    "attack.asr_by_target": of_each_target,
    "attack.asr_min": of_the_weakest_target,
    "attack.asr_restricted": rightly_answered("attack.acc", stamped),
    "defense.asr_restricted": rightly_answered("defense.acc", of_answered_stamped),
    **{f"{s}.{layer}_difference": compared for s in ("attack", "defense") for layer in ("latent", "logit")},
    **{f"{scope}.heat_difference_{of}": of_maps for scope in ("attack", "benign") for of in ("label", "target")},
    "attack.leakage": of_other_sources,
    **dict.fromkeys(["defense.fpr", "defense.passed_acc"], screened_clean),
    **dict.fromkeys(["defense.tpr", "defense.recall", "defense.passed_asr", "defense.requery_asr"], screened_stamped),
    "defense.requery_asr_by_tries": every_try(screened_stamped),
    **dict.fromkeys(["defense.f1", "defense.accuracy", "defense.auroc"], screened),
    "defense.precision": flagged,
    "defense.removed": delivered,
    "defense.held_out_asr": held_out,
}
"""Of how many samples each metric is, worked out from the request and the images."""
FOUND = "is what the defense found on images of its own"
PAIRS = "is of pairs of images, of which the analysis's own tests count how many there are"
OTHER_RULES = {
    **dict.fromkeys(["defense.agreement", "defense.agreement_on_samples"], FOUND),
    **dict.fromkeys(["defense.reached", "defense.stability"], FOUND),
    **dict.fromkeys(["defense.found_asr_before", "defense.found_asr_after"], FOUND),
    **dict.fromkeys(["defense.shadow_acc", "defense.shadow_acc_trojaned", "defense.shadow_asr"], FOUND),
    **dict.fromkeys(["defense.meta_flagged", "defense.meta_auroc"], "is of models that the defense trained"),
    **{f"analysis.map_difference_{each}": PAIRS for each in ("label", "target", "label_twin", "target_twin")},
    **dict.fromkeys(["analysis.trigger_mass", "analysis.trigger_mass_transformed"], PAIRS),
    "defense.mjs": "is of the pixels of a mask",
    "defense.mjs_top": "is of the pixels of a mask",
    **dict.fromkeys(["analysis.nsr", "analysis.nsr_twin"], PAIRS),
    **dict.fromkeys(["analysis.nsr_by_image", "analysis.nsr_by_image_twin"], PAIRS),
    **dict.fromkeys(["analysis.entropy_overlap", "analysis.entropy_overlap_twin"], PAIRS),
    **{
        f"analysis.cka_{compared}{at}": "is of all features at once"
        for compared in ("clean_stamped", "clean_stamped_twin", "twin", "twin_stamped")
        for at in ("", "_by_stage")
    },
}


def check_counts(record: Record, task: Task) -> None:
    expected = {name: rule(record, task) for name, rule in RULES.items() if name in record.metrics}
    assert record.counts == expected
    assert list(record.counts) == [name for name in record.metrics if name in expected]


def test_every_share_has_a_rule_of_what_it_is_a_share_of() -> None:
    shares = {name for name, metric in METRICS.items() if metric.unit in (PERCENT, POINTS, FRACTION)}
    unitless = {f"{stage}.{layer}_difference" for stage in ("attack", "defense") for layer in ("latent", "logit")}
    assert shares == (RULES.keys() - unitless) | OTHER_RULES.keys(), "say of how many images it is"


@pytest.mark.parametrize(
    "attack",
    ["none[trained=schedule[epochs=1,lr=0.01]]", "badnets[target=next]", "badnets[source=[1,2]]", "targeted_blend"],
)
def test_the_record_of_an_attack_says_of_how_many_images_each_number_is(attack: str, runner: Runner) -> None:
    record = runner.run(resolve(dataset="digits", attack=attack, profile="smoke", training="standard[epochs=2]"))
    check_counts(record, digits_task())
    assert record.counts["attack.acc"] == 400


def test_an_adversary_attacks_only_some_images(monkeypatch: pytest.MonkeyPatch, runner: Runner) -> None:
    monkeypatch.setattr(attacks, "ATTACKED", 70)
    recipe = "adversarial[epochs=1,steps=1]"
    record = runner.run(resolve(dataset="digits", attack="none", training=recipe, profile="smoke"))
    check_counts(record, digits_task())
    assert record.counts["attack.adversarial_acc"] == 70


def check_command(record: Record, runner: Runner) -> None:
    """The command line in the record asks for the very same cell."""
    assert record.command is not None
    program, run, *words = shlex.split(record.command.replace("--with", "--analysis"))
    assert (program, run) == ("gifthorse", "run" if record.analysis is None else "analyze")
    said = {option[2:].replace("-", "_"): value for option, value in zip(words[::2], words[1::2], strict=True)}
    again = resolve(**{**said, "seed": int(said["seed"])})  # type: ignore[arg-type]
    assert runner.reading(again).identity() == record.id


def against(request: str) -> str:
    """An attack that delivers what the defense looks at."""
    looks_at_training_set = "train" in DEFENSES.build(request).sees().holds
    return "badnets[mixing=dataset]" if looks_at_training_set else "badnets"


@pytest.mark.parametrize(
    ("attack", "defense"),
    [*(("none", name) for name in DEFENSES), *((against(request), request) for request in requests(DEFENSES))],
)
def test_what_is_said_of_a_defense_is_declared_and_in_its_range(attack: str, defense: str, runner: Runner) -> None:
    cell = resolve(dataset="digits", attack=attack, defense=defense, profile="smoke")
    assert cell.defense is not None
    affordable(cell.defense)
    record = runner.run(cell)
    if cell.defense.name in ("color_hue", "color_saturation"):
        assert (record.status, record.reason) == ("skipped", "images of 1 channel have no colours to change")
        return
    check_declared_and_in_range(record)
    check_command(record, runner)
    check_counts(record, digits_task())


@pytest.mark.parametrize("head", requests(HEADS))
def test_what_is_said_of_a_downstream_user_is_declared_and_in_its_range(head: str, runner: Runner) -> None:
    record = runner.run(resolve(dataset="digits", attack="badnets", downstream=head, profile="smoke"))
    check_declared_and_in_range(record)
    check_command(record, runner)
    check_counts(record, digits_task())


@pytest.mark.parametrize("stamp", requests(STAMPS))
def test_what_is_said_of_a_varied_trigger_is_declared_and_in_its_range(stamp: str, runner: Runner) -> None:
    again = stamp.startswith("requeried")
    attack = "badnets[trigger_position=random]" if again else "badnets"
    record = runner.run(resolve(dataset="digits", attack=attack, stamp=stamp, profile="smoke"))
    assert record.status == "done"
    assert again == ("stamp.requery_asr_by_tries" in record.metrics)
    check_declared_and_in_range(record)
    check_command(record, runner)
    check_counts(record, digits_task())


@pytest.mark.parametrize("analysis", requests(ANALYSES))
def test_what_an_analysis_finds_is_declared_and_in_its_range(analysis: str, runner: Runner) -> None:
    record = runner.run(resolve(dataset="digits", attack="badnets", analysis=analysis, profile="smoke"))
    assert record.status == "done"
    assert any(name.startswith("analysis.") for name in record.metrics)
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
    for table in (ATTACK, DOWNSTREAM, STAMP, *FAMILIES.values()):
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
