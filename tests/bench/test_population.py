"""Populations: ordinary cells, each with its own target; what does not count is left out and says why."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch

from gifthorse.attacks import ATTACKS
from gifthorse.attacks.data.badnets import BadNets
from gifthorse.attacks.no_attack import NoAttack
from gifthorse.bench import population
from gifthorse.bench.cell import Cell, resolve
from gifthorse.bench.machine import environment
from gifthorse.bench.packing import restore, weights
from gifthorse.bench.population import run_population
from gifthorse.bench.runner import Runner, Stage
from gifthorse.bench.store import Store
from gifthorse.core.errors import RequestError
from gifthorse.core.outcomes import ModelVerdict
from gifthorse.core.record import Population, Record
from gifthorse.core.seeds import derive
from gifthorse.defenses.inspection.neural_cleanse import NeuralCleanse
from gifthorse.planting import schedule
from gifthorse.planting.poisoning import TWINS
from gifthorse.planting.schedule import Schedule
from gifthorse.training import scratch
from gifthorse.training.loop import fit
from worlds import digits_task, requests

CPU = torch.device("cpu")
Answer = Callable[[Cell], Mapping[str, Any]]


def request(**fields: Any) -> Cell:
    quick = {"dataset": "digits", "profile": "smoke", "attack": "badnets", "defense": "neural_cleanse[steps=3]"}
    return resolve(**{**quick, **fields})


def runner_at(folder: Path) -> Runner:
    return Runner(Store(folder), Path("unused"), CPU)


@pytest.fixture
def runner(tmp_path: Path) -> Runner:
    return runner_at(tmp_path)


@pytest.fixture
def answered(monkeypatch: pytest.MonkeyPatch) -> Callable[[Answer], None]:
    """Let cells be answered by a function that returns what is worth saying of a record; nothing is trained."""

    def by(answer: Answer) -> None:
        def run(cell: Cell) -> Record:
            assert cell.defense is not None
            said = {"status": "done", **answer(cell)}
            goal = cell.attack.goal(digits_task())
            if goal is not None:
                said["metrics"] = {**said.get("metrics", {}), "attack.targets": list(map(float, goal.classes()))}
            parts = {
                name: getattr(cell, name).to_dict() for name in ("dataset", "model", "training", "attack", "defense")
            }
            return Record.model_validate(
                {
                    **parts,
                    **said,
                    "id": cell.identity(),
                    "family": cell.defense.family,
                    "profile": cell.profile,
                    "seed": cell.seed,
                    "environment": environment(CPU),
                    "created": "",
                }
            )

        monkeypatch.setattr(population, "run_cells", lambda _, cells, **__: list(map(run, cells)))

    return by


def trojaned(cell: Cell) -> bool:
    return cell.attack.name != "none"


def metrics(cell: Cell, index: float, **further: Any) -> dict[str, Any]:
    found = {"defense.aiv": index, "defense.flagged": index > 2, **further}
    if trojaned(cell):
        found = {"attack.valid": True, "attack.asr": 1.0, "attack.cad": 0.0, "defense.hit": index > 2, **found}
    return {"metrics": found}


def separated(cell: Cell) -> dict[str, Any]:
    """Benign indices below 1, trojaned ones above 3."""
    return metrics(cell, cell.seed / 100 + (3 if trojaned(cell) else 0))


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> tuple[Runner, Population]:
    """Two benign and two trojaned digit classifiers, really trained, really inspected."""
    runner = runner_at(tmp_path_factory.mktemp("population"))
    return runner, run_population(runner, request(seed=3), benign=2, trojaned=2)


def test_real_models_are_judged_and_every_one_is_an_ordinary_cell(real: tuple[Runner, Population]) -> None:
    runner, found = real
    assert (found.n_benign, found.n_trojaned, found.left_out) == (2, 2, [])
    assert found.index == "defense.index"
    assert set(found.readouts) == {"defense.aiv_target", "defense.aiv_log", "defense.aiv_ratio"}
    for member in [*found.benign, *found.trojaned]:
        record = runner.store.load_record(member.id)
        assert record is not None
        assert member.index == record.metrics["defense.index"] == record.metrics["defense.aiv"]
        assert member.readouts["defense.aiv_ratio"] == record.metrics["defense.aiv_ratio"]
    assert [member.seed for member in found.benign] == [member.seed for member in found.trojaned] == [3, 4]
    alone = request(seed=4, attack="badnets[target=4]")
    assert found.trojaned[1].id == alone.identity()


def test_a_second_time_it_is_answered_from_the_store(
    real: tuple[Runner, Population], monkeypatch: pytest.MonkeyPatch
) -> None:
    runner, found = real

    def never(*_: object, **__: object) -> None:
        raise AssertionError("computed again")

    for module in (scratch, schedule):
        monkeypatch.setattr(module, "fit", never)
    monkeypatch.setattr(NeuralCleanse, "defend", never)
    assert run_population(runner, request(seed=3), benign=2, trojaned=2) == found
    assert runner.store.load_population(found.id) == found
    smaller = run_population(runner, request(seed=3), benign=1, trojaned=2)
    assert (smaller.n_benign, smaller.tpr_at_fpr) == (1, {})
    assert smaller.id != found.id


RETRAINED = "badnets[origin=benign,epochs=1,lr=0.01,poison_rate=0.2]"


@pytest.fixture
def retrained(runner: Runner, monkeypatch: pytest.MonkeyPatch) -> tuple[Runner, Population, list[str]]:
    """A population of an attack that re-trains, and the labels of all trainings that it took."""
    trained: list[str] = []

    def counting(*given: Any, **how: Any) -> None:
        trained.append(how["label"])
        fit(*given, **how)

    monkeypatch.setattr(scratch, "fit", counting)
    monkeypatch.setattr(schedule, "fit", counting)
    # Whether it took does not matter here.
    monkeypatch.setattr("gifthorse.metrics.attacks.ASR_FLOOR", 0.0)
    monkeypatch.setattr("gifthorse.metrics.attacks.ABOVE_TWIN", -1.0)
    monkeypatch.setattr(NeuralCleanse, "defend", lambda *_: ModelVerdict(torch.arange(10.0), None))
    found = run_population(runner, request(attack=RETRAINED, training="standard[epochs=2]"), benign=3, trojaned=2)
    return runner, found, trained


def test_the_benign_models_of_an_attack_that_re_trains_are_the_twins_of_its_trojans(
    retrained: tuple[Runner, Population, list[str]],
) -> None:
    runner, found, trained = retrained
    assert sorted(trained) == ["badnets"] * 2 + ["benign model"] * 3 + ["benign twin"] * 3
    assert found.twin == Schedule(epochs=1, lr=0.01).to_dict()
    assert [member.seed for member in found.benign] == [0, 1, 2]
    quick = runner.reading(request(attack=RETRAINED, training="standard[epochs=2]"))
    task = replace(digits_task(), recipe=quick.training)
    twin = NoAttack(trained=Schedule(epochs=1, lr=0.01))
    for member in found.benign:
        cell = replace(quick, attack=twin, seed=member.seed)
        assert cell.identity() == member.id
        benign, delivered = (
            runner.store.load_artifact(kind, key)
            for kind, key in (("benign", cell.benign_key()), ("trojan", cell.trojan_key()))
        )
        assert benign is not None
        assert delivered is not None
        seed, clean = derive(member.seed, "classifier"), restore(task.build(0), benign[0])
        for name, array in weights(quick.attack.run(task, clean, seed).twin).items():
            assert np.array_equal(delivered[0][f"model/{name}"], array)
        assert not all(np.array_equal(delivered[0][f"model/{name}"], array) for name, array in benign[0].items())


def test_attacks_that_train_alike_share_the_benign_models(
    retrained: tuple[Runner, Population, list[str]], runner: Runner
) -> None:
    _, found, trained = retrained
    before = len(trained)
    other = request(attack="targeted_blend[origin=benign,epochs=1,lr=0.01]", training="standard[epochs=2]")
    again = run_population(runner, other, benign=3, trojaned=1)
    assert again.benign == found.benign
    assert trained[before:] == ["targeted_blend"]
    longer = request(attack="badnets[origin=benign,epochs=2,lr=0.01]", training="standard[epochs=2]")
    assert {member.id for member in run_population(runner, longer, benign=1, trojaned=1).benign}.isdisjoint(
        member.id for member in found.benign
    )


@pytest.mark.parametrize("attack", ["badnets[origin=scratch]", "esb"])
def test_the_benign_models_of_any_other_attack_are_those_of_the_recipe(
    attack: str, runner: Runner, answered: Callable[[Answer], None]
) -> None:
    answered(separated)
    found = run_population(runner, request(attack=attack), benign=2, trojaned=1)
    assert found.twin is None
    assert [member.id for member in found.benign] == [
        runner.reading(request(attack="none", seed=seed)).identity() for seed in range(2)
    ]


def test_every_attack_is_judged_beside_its_own_twins(runner: Runner, answered: Callable[[Answer], None]) -> None:
    """Whatever the attack: the benign cell is trained by what the trojan's twin is, of the same seed and target."""
    trained: dict[tuple[bool, int], Any] = {}

    def answer(cell: Cell) -> Mapping[str, Any]:
        trained[trojaned(cell), cell.seed] = cell.attack.twin(digits_task())
        return separated(cell)

    answered(answer)
    task = digits_task()
    for attack in requests(ATTACKS):
        if not attack.startswith("none"):
            trained.clear()
            found = run_population(runner, request(attack=attack), benign=2, trojaned=2)
            assert [trained[False, seed] for seed in range(2)] == [trained[True, seed] for seed in range(2)]
            twin = request(attack=attack).attack.twin(task)
            assert found.twin == (None if twin is None else twin.to_dict())


def test_a_twin_that_is_one_attacks_own_is_named_with_the_attack_and_reads_back() -> None:
    class Trembling(BadNets):
        def twin_mix(self, task: Any, seed: int) -> Any:
            return lambda pixels, labels: None

    own = Trembling(origin="scratch", target=3).twin(digits_task())
    assert own is not None
    assert own.to_dict()["attack"]["target"] == 3
    assert isinstance(own, TWINS["mixed_twin"])
    NoAttack(trained=own).check(digits_task())
    shared = TWINS.build("mixed_twin[attack=badnets]")
    with pytest.raises(RequestError, match="undergo nothing of its own"):
        NoAttack(trained=shared).check(digits_task())


@pytest.mark.parametrize(
    ("trained", "complaint"),
    [
        ("schedule", "re-training needs epochs and lr"),
        ("schedule[origin=scratch,epochs=3]", "those of the task's recipe"),
        ("schedule[origin=scratch]", "is how the benign model itself is trained: leave it out"),
        ("schedule[epochs=1,lr=0.1,fixed=[stem]]", "small_cnn has no module 'stem'"),
    ],
)
def test_a_training_that_cannot_be_or_is_no_other_is_refused(trained: str, complaint: str, runner: Runner) -> None:
    with pytest.raises(RequestError, match=complaint):
        runner.run(request(attack=f"none[trained={trained}]", defense=None))


def test_a_benign_model_delivers_the_images_that_it_was_trained_on() -> None:
    task = digits_task()
    aside = ATTACKS.build("none[trained=schedule[epochs=1,lr=0.01,set_aside=badnets]]")
    kept = Schedule(epochs=1, lr=0.01, set_aside="badnets").images(task, 0)[1].tolist()
    assert len(kept) == len(task.train) - round(len(task.train) / 10)
    for attack, seen in ((NoAttack(), range(len(task.train))), (aside, kept)):
        delivered = attack.run(task, task.build(0), 0, task.build(0)).delivered
        assert delivered is not None
        assert sorted(delivered.sources.tolist()) == sorted(seen)


def test_an_interrupted_population_continues_with_what_is_missing(
    runner: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(NeuralCleanse, "defend", lambda *_: ModelVerdict(torch.arange(10.0), None))
    seen: list[int] = []
    original = Runner.make

    def make(self: Runner, stage: Stage, cell: Cell, *, fresh: bool = False) -> Record | None:
        if stage == "record":
            if len(seen) == 2:
                raise KeyboardInterrupt
            seen.append(cell.seed)
        return original(self, stage, cell, fresh=fresh)

    quick = request(training="standard[epochs=1]")
    with monkeypatch.context() as patch:
        patch.setattr(Runner, "make", make)
        with pytest.raises(KeyboardInterrupt):
            run_population(runner, quick, benign=2, trojaned=1)
    before = {record.id: record.created for record in runner.store.records()}
    assert len(before) == 2
    run_population(runner, quick, benign=2, trojaned=1)
    after = {record.id: record.created for record in runner.store.records()}
    assert len(after) == 3
    assert before.items() <= after.items()


@pytest.mark.parametrize(
    ("attack", "same_target", "targets", "varied"),
    [
        ("badnets", False, [8, 9, 0, 1], True),
        ("badnets", True, [0, 0, 0, 0], False),
        ("badnets[target=0]", False, [0, 0, 0, 0], False),
        ("badnets[target=7,trigger_size=2]", False, [7, 7, 7, 7], False),
        ("esb", False, [8, 9, 0, 1], True),
    ],
)
def test_every_trojaned_model_has_another_target_unless_one_was_asked_for(
    attack: str,
    same_target: bool,
    targets: list[int],
    varied: bool,
    runner: Runner,
    answered: Callable[[Answer], None],
) -> None:
    answered(separated)
    found = run_population(runner, request(attack=attack, seed=8), benign=1, trojaned=4, same_target=same_target)
    assert [member.target for member in found.trojaned] == targets
    assert found.varied_target is varied
    assert found.benign[0].target is None


@pytest.mark.parametrize("profile", ["paper", "laptop", "smoke"])
def test_a_target_that_nobody_named_is_open_whatever_the_profile_sets(
    profile: str, runner: Runner, answered: Callable[[Answer], None]
) -> None:
    answered(separated)
    asked = resolve(dataset="digits", attack="badnets[poison_rate=0.2]", defense="nc", profile=profile, seed=6)
    found = run_population(runner, asked, benign=1, trojaned=1)
    assert found.trojaned[0].target == 6
    assert found.attack["poison_rate"] == 0.2


def test_the_numbers_are_those_of_the_models_that_count(runner: Runner, answered: Callable[[Answer], None]) -> None:
    def answer(cell: Cell) -> Mapping[str, Any]:
        said = metrics(cell, cell.seed + 0.5, **{"defense.aiv_log": -float(cell.seed)})
        if not trojaned(cell):
            return {**said, "status": "failed", "reason": "out of memory"} if cell.seed == 2 else said
        if cell.seed == 0:
            said["metrics"] |= {"attack.valid": False, "attack.asr": 0.25}
            said["doubts"] = ["success rate 0.250, under 0.8", "leakage 0.3"]
        said["metrics"] |= {"defense.hit": cell.seed != 4}
        return {"status": "skipped", "reason": "no images", "metrics": {}} if cell.seed == 1 else said

    answered(answer)
    found = run_population(runner, request(), benign=4, trojaned=5)
    assert [member.index for member in found.benign] == [0.5, 1.5, 3.5]
    assert [member.index for member in found.trojaned] == [2.5, 3.5, 4.5]
    assert (found.n_benign, found.n_trojaned) == (3, 3)
    assert found.auroc == pytest.approx((2 + 2.5 + 3) / 9)
    assert found.tpr_at_fpr == {}
    assert found.flagged_benign == pytest.approx(1 / 3)
    assert found.flagged_trojaned == 1
    assert found.suspect_hit_rate == pytest.approx(2 / 3)
    assert found.suspect_hit_rate_interval == pytest.approx((0.0943, 0.9916), abs=1e-4)
    assert found.readouts["defense.aiv_log"].auroc == pytest.approx((0 + 0.5 + 1) / 9)
    left = [(each.group, each.seed, each.status, each.reason) for each in found.left_out]
    assert left == [
        ("benign", 2, "failed", "out of memory"),
        ("trojaned", 0, "done", "the attack did not take: success rate 0.250, under 0.8; leakage 0.3"),
        ("trojaned", 1, "skipped", "no images"),
    ]


def test_who_names_the_wrong_class_has_no_credit_by_the_papers_rule(
    runner: Runner, answered: Callable[[Answer], None]
) -> None:
    """The largest index tells the groups apart, that of the true target does not: TrojanZoo compares the latter."""

    def answer(cell: Cell) -> Mapping[str, Any]:
        if not trojaned(cell):
            return metrics(cell, 1.0 + cell.seed)
        return metrics(cell, 9.0, **{"defense.aiv_target": 0.5})

    answered(answer)
    found = run_population(runner, request(), benign=3, trojaned=3)
    assert found.auroc == 1
    assert found.readouts["defense.aiv_target"].auroc == 0


def test_of_an_empty_group_nothing_is_said(runner: Runner, answered: Callable[[Answer], None]) -> None:
    answered(lambda cell: {"status": "skipped", "reason": "needs three classes"} if trojaned(cell) else separated(cell))
    found = run_population(runner, request(), benign=2, trojaned=2)
    assert (found.auroc, found.auroc_interval, found.tpr_at_fpr) == (None, None, {})
    assert (found.flagged_trojaned, found.suspect_hit_rate, found.suspect_hit_rate_interval) == (None, None, None)
    assert found.flagged_benign == 0
    assert {left.reason for left in found.left_out} == {"needs three classes"}
    assert Population.from_json(found.to_json()) == found


def test_the_index_is_the_methods_own_where_it_has_one(runner: Runner, answered: Callable[[Answer], None]) -> None:
    """One that compares another number than the published index with its threshold."""
    answered(lambda cell: metrics(cell, 1.0, **{"defense.index": 5.0 if trojaned(cell) else 4.0}))
    found = run_population(runner, request(), benign=2, trojaned=2)
    assert (found.index, found.auroc) == ("defense.index", 1)
    assert found.readouts["defense.aiv"].auroc == 0.5


def test_an_index_that_the_record_has_twice_is_reported_once(
    runner: Runner, answered: Callable[[Answer], None]
) -> None:
    answered(lambda cell: metrics(cell, cell.seed + 0.5, **{"defense.index": cell.seed + 0.5}))
    assert run_population(runner, request(), benign=2, trojaned=2).readouts == {}


def test_a_record_from_before_the_index_was_written_does_not_mix_in(
    runner: Runner, answered: Callable[[Answer], None]
) -> None:
    answered(lambda cell: metrics(cell, 1.0, **({"defense.index": 4.0} if cell.seed else {})))
    found = run_population(runner, request(), benign=2, trojaned=2)
    assert (found.n_benign, found.n_trojaned) == (1, 1)
    assert {left.reason for left in found.left_out} == {"its record has no defense.index"}


def test_a_failed_cell_stops_no_other_and_is_tried_again(runner: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    original = NeuralCleanse.defend
    quick = request(training="standard[epochs=1]")
    calls: list[int] = []

    def breaks_once(self: NeuralCleanse, view: Any, seed: int) -> Any:
        calls.append(seed)
        if len(calls) == 1:
            raise ArithmeticError("no convergence")
        return original(self, view, seed)

    monkeypatch.setattr(NeuralCleanse, "defend", breaks_once)
    found = run_population(runner, quick, benign=2, trojaned=1)
    assert len(calls) == 3
    assert [left.reason for left in found.left_out if left.status == "failed"] == ["ArithmeticError: no convergence"]
    again = run_population(runner, quick, benign=2, trojaned=1)
    assert again.id == found.id
    assert again.n_benign == 2
    assert runner.store.load_population(found.id) == again


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ({"attack": "none"}, "a population needs an attack; 'none' plants nothing"),
        ({"attack": "none[trained=schedule[epochs=1,lr=0.01]]"}, "'none' plants nothing"),
        ({"defense": "strip"}, "strip is of the family filtering; listed: .*neural_cleanse"),
        ({"defense": None}, "there is none; listed: .*neural_cleanse"),
        ({"attack": "badnets[trigger_size=40]"}, "does not fit"),
        ({"attack": "badnets[target=10]"}, "is not a class"),
    ],
)
def test_a_wrong_request_is_refused_before_anything_is_trained(
    fields: Mapping[str, Any], complaint: str, runner: Runner, tmp_path: Path
) -> None:
    with pytest.raises(RequestError, match=complaint):
        run_population(runner, request(**fields), benign=2, trojaned=2)
    assert list(tmp_path.iterdir()) == []


def test_another_answer_replaces_the_document_and_the_same_one_keeps_it(
    runner: Runner, answered: Callable[[Answer], None]
) -> None:
    answered(separated)
    first = run_population(runner, request(), benign=2, trojaned=2)
    assert run_population(runner, request(), benign=2, trojaned=2).created == first.created
    answered(lambda cell: metrics(cell, 1.0))
    other = run_population(runner, request(), benign=2, trojaned=2)
    assert (other.id, other.auroc) == (first.id, 0.5)
    assert runner.store.load_population(first.id) == other


def test_a_document_of_before_the_twins_were_judged_is_read(runner: Runner, answered: Callable[[Answer], None]) -> None:
    answered(separated)
    found = run_population(runner, request(), benign=2, trojaned=2)
    text = found.to_json().replace(' "twin": null,\n', "")
    assert '"twin"' not in text
    assert Population.from_json(text) == found


Change = Literal["n_benign", "schema", "further", "nan"]


@pytest.mark.parametrize("change", ["n_benign", "schema", "further", "nan"])
def test_a_document_that_contradicts_itself_is_not_one(
    change: Change, runner: Runner, answered: Callable[[Answer], None], caplog: pytest.LogCaptureFixture
) -> None:
    answered(separated)
    found = run_population(runner, request(), benign=2, trojaned=2)
    text = found.to_json()
    edits = {
        "n_benign": ('"n_benign": 2', '"n_benign": 3'),
        "schema": ('"schema": 1', '"schema": 0'),
        "further": ('"schema": 1', '"schema": 1, "more": 1'),
        "nan": (f'"auroc": {found.auroc}', '"auroc": NaN'),
    }
    changed = text.replace(*edits[change])
    assert changed != text
    (path,) = (runner.store.root / "populations").iterdir()
    path.write_text(changed)
    assert runner.store.load_population(found.id) is None
    assert "damaged" in caplog.text


def test_a_readout_that_some_models_lack_is_left_out(runner: Runner, answered: Callable[[Answer], None]) -> None:
    def answer(cell: Cell) -> dict[str, Any]:
        further = {"defense.aiv_log": 1.0} if cell.seed else {}
        return metrics(cell, 1.0, **{"defense.aiv_ratio": 2.0, **further})

    answered(answer)
    assert set(run_population(runner, request(), benign=2, trojaned=2).readouts) == {"defense.aiv_ratio"}
