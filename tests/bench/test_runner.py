"""Cells: answered from the store, resumed, and never without a reason."""

import json
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from gifthorse.attacks.data.label_consistent import MovedImages
from gifthorse.bench import runner as runner_module
from gifthorse.bench.cell import Cell, resolve
from gifthorse.bench.execution import run_cells
from gifthorse.bench.packing import unpack_trojan
from gifthorse.bench.runner import Runner
from gifthorse.bench.store import Store
from gifthorse.core.classifier import Classifier, predict
from gifthorse.core.defense import Defense
from gifthorse.core.errors import RequestError, StoreError
from gifthorse.core.images import Images
from gifthorse.core.metric import METRICS
from gifthorse.core.outcomes import CleanModel, InputScreen, SuspectSamples
from gifthorse.core.recipe import Recipe
from gifthorse.core.record import Record
from gifthorse.core.seeds import derive
from gifthorse.core.task import Task
from gifthorse.core.views import DataFreeView, Materials, SuspectDataView
from gifthorse.defenses.inspection.neural_cleanse import NeuralCleanse
from gifthorse.defenses.reformation.transformation import ShrinkPad
from gifthorse.metrics.attacks import judge_attack
from gifthorse.planting import schedule
from gifthorse.training import scratch
from gifthorse.training.loop import fit
from worlds import with_delivered_set

RUNNER_FIELDS = {"data_root": Path("unused"), "device": torch.device("cpu")}


def cell(**request: Any) -> Cell:
    quick = {"dataset": "digits", "training": "standard[epochs=2]", "profile": "smoke", "attack": "badnets"}
    return resolve(**{**quick, **request})


@pytest.fixture
def runner(tmp_path: Path) -> Runner:
    return Runner(Store(tmp_path), **RUNNER_FIELDS)  # type: ignore[arg-type]


@pytest.fixture
def trainings(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The labels of every training that really happens."""
    seen: list[str] = []

    def counting(*args: Any, **kwargs: Any) -> None:
        seen.append(kwargs["label"])
        fit(*args, **kwargs)

    monkeypatch.setattr(scratch, "fit", counting)
    monkeypatch.setattr(schedule, "fit", counting)
    return seen


def test_a_second_run_is_answered_from_the_store(runner: Runner, trainings: list[str]) -> None:
    first = runner.run(cell(defense="shrinkpad"))
    assert trainings == ["benign model", "badnets"]
    assert runner.run(cell(defense="shrinkpad")) == first
    assert len(trainings) == 2


def test_another_defense_trains_nothing_again(runner: Runner, trainings: list[str]) -> None:
    runner.run(cell(defense="shrinkpad"))
    runner.run(cell(defense="shrinkpad[shrink=3]"))
    assert len(trainings) == 2


def test_another_seed_or_field_is_another_cell() -> None:
    identities = {
        cell().identity(),
        cell(seed=1).identity(),
        cell(attack="badnets[trigger_size=2]").identity(),
        cell(dataset="digits[size=12]").identity(),
        cell(defense="strip").identity(),
        cell(defense="strip[fpr=0.1]").identity(),
    }
    assert len(identities) == 6


def test_saying_a_default_aloud_is_the_same_cell() -> None:
    assert cell(attack="badnets[trigger_size=3]").identity() == cell(attack="bn").identity()


def test_a_profile_may_say_how_a_network_is_trained_and_the_user_has_the_last_word() -> None:
    request: dict[str, Any] = {"dataset": "digits", "profile": "laptop"}
    assert resolve(**request, model="cnn_celeba").training.lr == 0.03
    assert resolve(**request, model="cnn_celeba[width=8]", training="adversarial").training.lr == 0.03
    assert resolve(**request, model="cnn_celeba", training="standard[lr=0.2]").training.lr == 0.2
    assert resolve(**request).training.lr == 0.1


def test_a_fresh_store_gives_the_same_numbers(runner: Runner, tmp_path: Path) -> None:
    other = Runner(Store(tmp_path / "other"), **RUNNER_FIELDS)  # type: ignore[arg-type]
    request = cell(defense="strip")
    first, again = runner.run(request), other.run(request)
    assert first.metrics == again.metrics
    assert first.id == again.id


def test_the_time_of_a_defense_is_in_its_record(runner: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the defense alone: neither of training before it nor of the judgement after it."""
    defend = ShrinkPad.defend

    def waiting(self: ShrinkPad, view: DataFreeView, seed: int) -> CleanModel:
        time.sleep(0.3)
        return defend(self, view, seed)

    monkeypatch.setattr(ShrinkPad, "defend", waiting)
    seconds = runner.run(cell(defense="shrinkpad")).seconds
    assert 0.3 <= seconds["defense"] < 0.3 + seconds["benign"] + seconds["attack"]


@pytest.mark.parametrize("stage", ["judge_attack", "judge_defense"])
def test_a_resumed_run_gives_what_an_uninterrupted_one_gives(
    stage: str, runner: Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = runner.run(cell(defense="strip"))
    other = Runner(Store(tmp_path / "other"), **RUNNER_FIELDS)  # type: ignore[arg-type]

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(runner_module, stage, interrupt)
        with pytest.raises(KeyboardInterrupt):
            other.run(cell(defense="strip"))
    assert list(other.store.records()) == []
    again = other.run(cell(defense="strip"))
    assert again.metrics == whole.metrics
    assert again.counts == whole.counts
    assert {"attack.asr", "defense.tpr"} <= again.counts.keys()
    evidence = [each.store.load_artifact("evidence", whole.id) for each in (runner, other)]
    assert evidence[0] is not None
    assert evidence[1] is not None
    assert evidence[0][0].keys() == evidence[1][0].keys()
    assert all((evidence[0][0][name] == evidence[1][0][name]).all() for name in evidence[0][0])


def prepared_in(runner: Runner) -> list[Path]:
    return sorted((runner.store.root / "artifacts" / "prepared").glob("*"))


def test_what_a_defender_prepares_is_shared_by_all_models_seeds_and_thresholds(runner: Runner) -> None:
    quick = "steps=2,batches=1,reference=2"
    first = runner.run(cell(defense=f"neural_cleanse[{quick}]"))
    assert first.status == "done"
    others = [
        runner.run(cell(attack="none", defense=f"neural_cleanse[{quick}]")),
        runner.run(cell(seed=1, defense=f"neural_cleanse[{quick}]")),
        runner.run(cell(defense=f"neural_cleanse[{quick},reference_threshold=5.0]")),
    ]
    assert len(prepared_in(runner)) == 1
    assert first.seconds.get("prepared") is not None
    assert {record.seconds["prepared"] for record in others} == {first.seconds["prepared"]}
    assert others[2].metrics["defense.scores"] == first.metrics["defense.scores"]
    runner.run(cell(defense="neural_cleanse[steps=1,batches=1,reference=2]"))
    runner.run(cell(defense=f"neural_cleanse[{quick}]", dataset="digits[holdout=60]"))
    assert len(prepared_in(runner)) == 3
    assert runner.run(cell(defense="neural_cleanse[steps=2,batches=1]")).seconds.get("prepared") is None
    assert len(prepared_in(runner)) == 3


CONSISTENT = "label_consistent[steps=2,poison_rate=0.5]"


def test_what_an_attack_prepares_is_computed_once_for_all_rates_triggers_and_wrappers(
    runner: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare, seen = MovedImages.prepare, list[MovedImages]()

    def counting(self: MovedImages, *given: Any) -> dict[str, Tensor]:
        seen.append(self)
        return prepare(self, *given)

    monkeypatch.setattr(MovedImages, "prepare", counting)
    alike = (CONSISTENT, "label_consistent[steps=2,poison_rate=0.7,trigger_size=2]", f"enhanced[base={CONSISTENT}]")
    records = [runner.run(cell(attack=attack)) for attack in alike]
    assert [each.status for each in records] == ["done"] * 3
    assert len(seen) == 1
    named = [(each.artifacts or {})["attack_prepared"] for each in records]
    assert len({*named}) == 1
    assert runner.store.has_artifact("attack_prepared", named[0])
    assert {each.seconds["attack_prepared"] for each in records} == {records[0].seconds["attack_prepared"]}
    for other in (
        cell(attack=CONSISTENT, seed=1),
        cell(attack=CONSISTENT.replace("steps=2", "steps=3")),
        cell(attack=CONSISTENT.replace("steps=2", "steps=2,target=1")),
    ):
        runner.run(other)
    assert len(seen) == 4


def test_a_trojan_planted_with_what_the_store_has_prepared_is_the_one_planted_at_once(
    runner: Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = runner.run(cell(attack=CONSISTENT))
    other = Runner(Store(tmp_path / "other"), **RUNNER_FIELDS)  # type: ignore[arg-type]
    other.make("attack_prepared", cell(attack=CONSISTENT))
    assert not list((tmp_path / "other").rglob("trojan/*"))
    with monkeypatch.context() as patch:
        patch.setattr(MovedImages, "prepare", None)
        assert other.run(cell(attack=CONSISTENT)).metrics == whole.metrics


class Tired(Defense[DataFreeView]):
    """Trains a model on what it has before any is delivered, and says what it saw."""

    name = "tired"
    family = "sanitization"
    view = DataFreeView
    width: int = 4

    def prepare(self, materials: Materials, seed: int) -> dict[str, Tensor]:
        shape, classes = materials.clean.shape, materials.clean.classes
        structure = materials.trainer.architecture.build(shape, classes, seed)
        return {"seen": torch.tensor(len(materials.clean)), "weight": structure.head.weight.detach()}

    def defend(self, view: DataFreeView, seed: int) -> CleanModel:
        assert view.prepared["seen"] == 0, "a defender without images has prepared with some"
        model = view.model.clone()
        model.head.weight.data = view.prepared["weight"].clone()
        return CleanModel(model)


def test_a_data_free_defender_prepares_without_images_and_resumes_to_the_same_numbers(
    runner: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = runner.run(replace(cell(), defense=Tired()))
    assert (whole.status, whole.reason) == ("done", None)
    with monkeypatch.context() as patch:
        patch.setattr(Tired, "prepare", None)
        assert runner.run(replace(cell(), defense=Tired(), profile="laptop")).metrics == whole.metrics
    runner.run(replace(cell(), defense=Tired(width=5)))
    assert len(prepared_in(runner)) == 2


class Loudest(Defense[SuspectDataView]):
    """Removes the training images with the largest loss, and trains on the others."""

    name = "loudest"
    family = "filtering"
    view = SuspectDataView

    def defend(self, view: SuspectDataView, seed: int) -> SuspectSamples:
        logits = predict(view.model, view.suspect)
        scores = cross_entropy(logits, view.suspect.labels, reduction="none")
        removed = scores > scores.quantile(0.9)
        return SuspectSamples(scores, removed, view.trainer.train(view.suspect.take(~removed), seed))


def test_a_filter_of_training_sets_is_judged_where_one_was_delivered_and_skipped_where_none_was(
    runner: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    skipped = runner.run(replace(cell(attack="esb"), defense=Loudest()))
    assert skipped.status == "skipped"
    assert "no training set" in str(skipped.reason)
    request = replace(cell(), defense=Loudest())
    monkeypatch.setattr(
        runner_module, "unpack_trojan", lambda task, *rest: with_delivered_set(unpack_trojan(task, *rest), task)
    )
    record = runner.run(request)
    assert (record.status, record.reason) == ("done", None)
    assert record.metrics["defense.removed"] == pytest.approx(0.1, abs=0.01)
    assert {"defense.tpr", "defense.auroc", "defense.acc", "defense.asr", "defense.ard"} <= record.metrics.keys()


def test_a_view_that_nobody_can_build_is_refused_before_any_training(runner: Runner, trainings: list[str]) -> None:
    @dataclass(frozen=True, eq=False)
    class Crystal(DataFreeView):
        pass

    class Seer(Tired):
        name = "seer"
        view = Crystal

    with pytest.raises(RequestError, match="how a Crystal is built"):
        runner.run(replace(cell(), defense=Seer()))
    assert trainings == []


@pytest.fixture
def judgements(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every trojan that is really judged."""
    seen: list[str] = []

    def counting(*args: Any) -> Any:
        seen.append("judged")
        return judge_attack(*args)

    monkeypatch.setattr(runner_module, "judge_attack", counting)
    return seen


def test_a_trojan_is_judged_once_whatever_follows_it(runner: Runner, judgements: list[str]) -> None:
    alone = runner.run(cell())
    defended = runner.run(cell(defense="shrinkpad"))
    tuned = runner.run(cell(downstream="fcn1[epochs=1]"))
    assert len(judgements) == 1
    assert {"attack.asr", "attack.acc", "benign.asr"} <= alone.metrics.keys()
    assert not [name for name in alone.metrics if name.startswith(("defense.", "downstream."))]
    assert alone.metrics.items() <= defended.metrics.items()
    assert alone.metrics.items() <= tuned.metrics.items()
    assert alone.seconds["judgement"] == defended.seconds["judgement"]
    evidence = runner.store.load_artifact("evidence", defended.id)
    assert evidence is not None
    assert {"clean", "stamped", "true_mask", "reformed"} <= evidence[0].keys()
    runner.run(cell(seed=1))
    assert len(judgements) == 2


def test_another_judge_or_another_trojan_under_the_same_key_is_judged_anew(
    runner: Runner, judgements: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    runner.run(cell())
    with monkeypatch.context() as patch:
        patch.setattr(runner_module, "source_of", lambda _: "edited")
        runner.run(cell(defense="shrinkpad"))
    assert len(judgements) == 2
    key = cell().trojan_key()
    arrays, about = runner.store.load_artifact("trojan", key) or ({}, {})
    arrays["model/network.head.bias"] = arrays["model/network.head.bias"] + 1
    runner.store.save_artifact("trojan", key, arrays, about)
    runner.run(cell(defense="shrinkpad[shrink=1]"))
    assert len(judgements) == 3


def test_a_damaged_model_is_computed_anew(
    runner: Runner, trainings: list[str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = runner.run(cell(defense="shrinkpad"))
    for path in (tmp_path / "artifacts" / "trojan").iterdir():
        path.write_bytes(path.read_bytes()[:-100])
    again = runner.run(cell(defense="shrinkpad[shrink=1]"))
    assert "damaged" in caplog.text
    assert trainings == ["benign model", "badnets", "badnets"]
    assert again.metrics["attack.asr"] == first.metrics["attack.asr"]


def test_an_edited_trojan_or_record_is_computed_anew(
    runner: Runner, trainings: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    """Another target in the trojan's description would silently be another record; so would other numbers in one."""
    first = runner.run(cell(training="standard[epochs=1]"))
    path = runner.store.record_path(first.id)
    path.write_text(path.read_text().replace('"attack.asr": ', '"attack.asr": 0'))
    assert runner.run(cell(training="standard[epochs=1]")).metrics == first.metrics
    assert f"{path} is damaged (it was changed after it was written); computing it anew" in caplog.text
    assert trainings == ["benign model", "badnets"]
    (trojan,) = runner.store.root.glob("artifacts/trojan/*")
    content = trojan.read_bytes()
    assert content.count(b'\\"target\\": 0') == 1
    trojan.write_bytes(content.replace(b'\\"target\\": 0', b'\\"target\\": 7'))
    path.unlink()
    assert runner.run(cell(training="standard[epochs=1]")).metrics == first.metrics
    assert f"{trojan} is damaged" in caplog.text
    assert trainings == ["benign model", "badnets", "badnets"]
    assert trojan.read_bytes() != content.replace(b'\\"target\\": 0', b'\\"target\\": 7')


def test_a_record_of_a_newer_program_is_refused_before_anything_is_trained(
    runner: Runner, trainings: list[str]
) -> None:
    asked = runner.reading(cell())
    path = runner.store.record_path(asked.identity())
    path.parent.mkdir()
    path.write_text('{"schema": 2}')
    for fresh in (False, True):
        with pytest.raises(StoreError, match="a newer gifthorse wrote"):
            run_cells(runner, [asked], fresh=fresh)
    assert trainings == []
    assert path.read_text() == '{"schema": 2}'


def test_a_cell_that_breaks_is_a_failed_record_with_a_reason_and_is_tried_again(
    runner: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise ArithmeticError("no convergence")

    with monkeypatch.context() as patch:
        patch.setattr(ShrinkPad, "defend", broken)
        failed = runner.run(cell(defense="shrinkpad"))
    assert failed.status == "failed"
    assert failed.reason == "ArithmeticError: no convergence"
    assert runner.run(cell(defense="shrinkpad")).status == "done"


@pytest.mark.parametrize(
    ("said", "diverged", "kind"),
    [
        ({"training": "standard[epochs=1,lr=1e6]"}, "benign model", "benign"),
        ({"attack": "badnets[origin=benign,epochs=1,lr=1e6]"}, "benign twin", "twin"),
    ],
)
def test_training_that_diverges_is_a_failed_cell_and_nothing_of_it_is_kept(
    said: dict[str, str], diverged: str, kind: str, runner: Runner
) -> None:
    failed = runner.run(cell(defense="strip", **said))
    assert failed.status == "failed"
    assert failed.reason is not None
    assert failed.reason.startswith(f"FloatingPointError: the training of the {diverged} diverged: ")
    assert not (runner.store.root / "artifacts" / kind).exists()


def test_an_attack_that_leaves_no_numbers_is_a_failed_cell(runner: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    attack = type(cell().attack)
    run = attack.run

    def diverged(*args: Any) -> Any:
        trojan = run(*args)
        with torch.no_grad():
            trojan.model.head.weight[0, 0] = torch.inf
        return trojan

    monkeypatch.setattr(attack, "run", diverged)
    failed = runner.run(cell(attack="badnets[epochs=1]"))
    assert failed.status == "failed"
    assert "the training of the trojaned model diverged: model/" in str(failed.reason)


def test_a_defense_that_does_not_apply_is_skipped_with_its_sentence(
    runner: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(NeuralCleanse, "skip", lambda *_: "needs three classes")
    record = runner.run(cell(defense="neural_cleanse[steps=1]"))
    assert (record.status, record.reason) == ("skipped", "needs three classes")
    assert "attack.asr" in record.metrics
    assert not [name for name in record.metrics if name.startswith("defense.")]
    monkeypatch.undo()
    assert runner.run(cell(defense="neural_cleanse[steps=1]")).status == "done"


@pytest.mark.parametrize("in_a_grid", [False, True])
def test_a_surrogate_that_is_too_poor_skips_the_cell_before_anything_else_is_trained(
    runner: Runner, trainings: list[str], in_a_grid: bool
) -> None:
    request = cell(attack="badnets[against=manifold_projection[epochs=1,lr=1e-9],origin=benign]", defense="shrinkpad")
    (record,) = run_cells(runner, [request]) if in_a_grid else [runner.run(request)]
    assert record.status == "skipped"
    assert str(record.reason).startswith("the surrogate of manifold_projection is too poor to train against")
    assert trainings == ["benign model"] + ["benign twin"] * in_a_grid
    assert runner.run(request).reason == record.reason
    assert [each.status for each in run_cells(runner, [request])] == ["skipped"]


def test_an_attack_is_judged_by_the_training_set_filter_that_it_is_trained_against(runner: Runner) -> None:
    attack = "badnets[mixing=dataset,poison_rate=0.2,against=activation_clustering]"
    record = runner.run(cell(attack=attack, defense="activation_clustering"))
    assert record.status == "done"
    assert float(record.metrics["attack.asr"]) > 0.5  # type: ignore[arg-type]
    assert "defense.auroc" in record.metrics


def test_a_record_is_complete(runner: Runner) -> None:
    record = runner.run(cell(defense="strip"))
    document = json.loads(record.to_json())
    assert document["schema"] == 1
    assert document["attack"] == cell().attack.to_dict()
    assert document["attack"]["origin"] == "scratch"
    assert document["training"]["epochs"] == 2
    assert document["seconds"]["benign"] > 0
    assert document["seconds"]["defense_per_input"] > 0
    assert document["peak_memory_mb"] > 0
    assert document["environment"]["torch"] == torch.__version__
    assert Record.from_json(record.to_json()) == record


def test_metrics_that_do_not_apply_are_absent(runner: Runner) -> None:
    metrics = runner.run(cell(attack="none", defense="strip")).metrics
    assert set(metrics) == {"benign.acc", "benign.chance", "attack.acc", "attack.ccc"} | {
        f"defense.{name}" for name in ("fpr", "passed_acc", "clean_images")
    }


def test_a_defense_that_finds_at_work_that_it_cannot_be_applied_is_skipped(runner: Runner) -> None:
    record = runner.run(cell(attack="none", defense="pipeline[defenses=[randomized_smoothing[samples=2],strip]]"))
    assert record.status == "skipped"
    assert record.reason is not None
    assert record.reason.startswith("strip cannot follow randomized_smoothing")
    assert record.family == "filtering"


def test_a_record_says_how_many_clean_images_the_defender_had(runner: Runner) -> None:
    record = runner.run(cell(attack="none", defense="strip[clean_share=0.04]"))
    assert record.metrics["defense.clean_images"] == 48
    assert record.defense is not None
    assert record.defense["clean_share"] == 0.04
    assert "defense.clean_images" not in runner.run(cell(attack="none", defense="shrinkpad")).metrics


Begun = list[tuple[str, Tensor, Recipe]]


@pytest.fixture
def begun(monkeypatch: pytest.MonkeyPatch) -> Begun:
    """Of every training that an attack starts: its label, the weights of the head that it starts with, its recipe."""
    seen: Begun = []

    def watching(model: Classifier, images: Images, recipe: Recipe, *rest: Any, **stages: Any) -> None:
        seen.append((stages["label"], model.head.weight.detach().clone(), recipe))
        fit(model, images, recipe, *rest, **stages)

    monkeypatch.setattr(schedule, "fit", watching)
    return seen


def test_a_retrained_trojan_starts_from_the_benign_model_and_its_twin_is_trained_as_long(
    begun: Begun, task: Task, benign: Classifier
) -> None:
    attack = cell(attack="badnets[origin=benign,epochs=2,lr=0.02,poison_rate=0.1]").attack
    result = attack.run(task, benign, 0)
    assert [label for label, *_ in begun] == ["benign twin", "badnets"]
    for _, start, recipe in begun:
        assert torch.equal(start, benign.head.weight)
        assert recipe == task.recipe.changed(epochs=2, lr=0.02, schedule="cosine")
    heads = [model.head.weight for model in (benign, result.twin, result.model)]
    assert len({weight.detach().numpy().tobytes() for weight in heads}) == 3


def test_a_trojan_from_scratch_starts_where_the_benign_model_did_which_is_its_twin(
    begun: Begun, task: Task, benign: Classifier
) -> None:
    result = cell(attack="badnets[origin=scratch]").attack.run(task, benign, 0)
    ((label, start, recipe),) = begun
    assert label == "badnets"
    assert recipe == task.recipe
    assert torch.equal(start, task.build(derive(0, "model")).head.weight)
    assert not torch.equal(start, benign.head.weight)
    assert torch.equal(result.twin.head.weight, benign.head.weight)


CLOCK = [0.0]


class Pondering(Defense[DataFreeView]):
    """Takes seven seconds to set up, and half a second for every input."""

    name = "pondering"
    family = "filtering"
    view = DataFreeView

    def defend(self, view: DataFreeView, seed: int) -> InputScreen:
        CLOCK[0] += 7

        def score(pixels: Tensor) -> Tensor:
            CLOCK[0] += len(pixels) / 2
            return pixels.flatten(1).mean(1)

        return InputScreen(score, 0.5)


def test_times_are_those_of_each_stage_alone(runner: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    def lasting(seconds: float) -> Any:
        def train(*args: Any, **kwargs: Any) -> None:
            CLOCK[0] += seconds
            fit(*args, **kwargs)

        return train

    monkeypatch.setattr("time.perf_counter", lambda: CLOCK[0])
    monkeypatch.setattr(scratch, "fit", lasting(11))
    monkeypatch.setattr(schedule, "fit", lasting(13))
    seconds = runner.run(replace(cell(attack="badnets[origin=scratch]"), defense=Pondering())).seconds
    assert seconds == {"benign": 11, "attack": 13, "judgement": 0, "defense": 7, "defense_per_input": 0.5}


def test_nothing_is_written_outside_the_store(
    runner: Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    monkeypatch.chdir(elsewhere)
    runner.run(cell(defense="shrinkpad"))
    assert list(elsewhere.iterdir()) == []
    written = {path.name for path in tmp_path.iterdir() if any(path.iterdir())}
    assert written == {"artifacts", "records"}


def test_the_real_images_run_end_to_end(real_data: Path, tmp_path: Path) -> None:
    real = Runner(Store(tmp_path), real_data, torch.device("cpu"))
    for dataset in ("mnist", "fashion_mnist", "cifar10"):
        record = real.run(cell(dataset=dataset, training="standard[epochs=1]", defense="shrinkpad"))
        assert record.status == "done"
        assert record.dataset["train"] == 1500


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist", "cifar10"])
def test_damaged_image_files_are_one_clear_line(name: str, tmp_path: Path) -> None:
    from gifthorse.datasets import DATASETS

    raw = tmp_path / {"mnist": "MNIST/raw", "fashion_mnist": "FashionMNIST/raw", "cifar10": "cifar-10-batches-py"}[name]
    raw.mkdir(parents=True)
    for file in ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "data_batch_1"):
        (raw / file).write_bytes(b"\0\0\x08\x03half a file")
    (raw / "t10k-labels-idx1-ubyte").write_bytes(b"")
    with pytest.raises(RequestError, match="cannot read") as caught:
        DATASETS.build(name).load(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_record_reads_alike_whether_its_trojan_was_judged_before(runner: Runner) -> None:
    """In the order of declaration; a judgement from the store comes sorted by name."""
    first = runner.run(cell())
    again = runner.run(cell(defense="shrinkpad"))
    shared = [name for name in again.metrics if name in first.metrics]
    assert shared == list(first.metrics)
    assert shared == [name for name in METRICS if name in first.metrics]
