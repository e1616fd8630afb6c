"""Cells that look inside of a model: keys, records, what they follow, and requests that are refused."""

from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

from gifthorse.analyses.class_distances import ClassDistances
from gifthorse.analyses.nsr import Nsr
from gifthorse.analyses.pairs import pairs_of
from gifthorse.analyses.pca import Pca
from gifthorse.bench.cell import Cell, resolve
from gifthorse.bench.plan import plan
from gifthorse.bench.runner import Runner
from gifthorse.bench.store import Store
from gifthorse.core.analysis import Findings, Subject, stage_called
from gifthorse.core.classifier import Classifier
from gifthorse.core.errors import NotApplicableError, RequestError
from gifthorse.core.record import Record
from gifthorse.core.task import Task
from gifthorse.stampings.transformed import Flipped


def cell(**request: Any) -> Cell:
    quick = {"dataset": "digits", "profile": "smoke", "attack": "badnets", "analysis": "nsr"}
    return resolve(**{**quick, **request})


@pytest.fixture(scope="module")
def runner(tmp_path_factory: pytest.TempPathFactory) -> Runner:
    """One store for the module, so that benign model and trojan are trained once."""
    return Runner(Store(tmp_path_factory.mktemp("runs")), Path("unused"), torch.device("cpu"))


def test_an_analysis_is_in_the_identity_and_the_trojan_is_shared() -> None:
    plain, looked_at = (
        cell(analysis="none"),
        [cell(), cell(analysis="nsr[active_share=0.1]"), cell(defense="shrinkpad")],
    )
    assert plain.identity() == plain._key({"trojan": plain.trojan_key(), "profile": "smoke"})
    assert len({each.identity() for each in (plain, *looked_at)}) == 4
    assert {each.trojan_key() for each in looked_at} == {plain.trojan_key()}


def test_a_record_holds_what_was_found_beside_the_attack(runner: Runner) -> None:
    record, plain = runner.run(cell()), runner.run(cell(analysis="none"))
    assert record.status == "done"
    assert record.analysis == {"name": "nsr", "images": 100, "active_share": 0.5}
    assert {name: value for name, value in record.metrics.items() if not name.startswith("analysis.")} == plain.metrics
    assert {"analysis.nsr", "analysis.nsr_twin"} <= record.metrics.keys()
    assert record.counts["analysis.nsr"] == 100
    assert {name.partition("/")[0] for name in runner.store.evidence(record.id)} == {"against"}
    assert Record.from_json(record.to_json()) == record == runner.run(cell())
    assert "badnets → nsr on digits" in repr(record)


def test_a_trojan_uses_other_neurons_for_the_trigger_more_than_its_twin(runner: Runner) -> None:
    found = runner.run(cell()).metrics
    assert float(found["analysis.nsr"]) > float(found["analysis.nsr_twin"]) + 0.05  # type: ignore[arg-type]


def test_what_a_defense_leaves_is_looked_at_and_not_judged(runner: Runner) -> None:
    alone, repaired = runner.run(cell()), runner.run(cell(defense="fine_pruning"))
    assert repaired.status == "done"
    assert repaired.family == "sanitization"
    assert not any(name.startswith("defense.") for name in repaired.metrics if name != "defense.clean_images")
    assert repaired.metrics["analysis.nsr"] != alone.metrics["analysis.nsr"]
    assert repaired.metrics["analysis.nsr_twin"] == alone.metrics["analysis.nsr_twin"]


def test_a_varied_trigger_is_looked_at_as_it_is_shown(runner: Runner) -> None:
    planted, moved = runner.run(cell()), runner.run(cell(stamp="shifted[down=-5,right=-5]"))
    assert moved.status == "done"
    assert not any(name.startswith("stamp.") for name in moved.metrics)
    assert moved.metrics["analysis.nsr"] != planted.metrics["analysis.nsr"]


@pytest.mark.parametrize(
    ("request_", "said"),
    [
        ({"defense": "strip"}, "strip leaves no network with layers to look into"),
        ({"defense": "neural_cleanse"}, "neural_cleanse leaves no network"),
        ({"attack": "none"}, "nsr compares images with and without a trigger, and there is no backdoor"),
    ],
)
def test_where_there_is_nothing_to_see_the_cell_is_skipped_in_a_sentence(
    request_: dict[str, str], said: str, runner: Runner
) -> None:
    record = runner.run(cell(**request_))
    assert record.status == "skipped"
    assert said in (record.reason or "")


def test_an_analysis_and_a_downstream_head_are_refused() -> None:
    with pytest.raises(RequestError, match=r"an analysis \(nsr\) and a downstream head \(fcn1\) cannot be combined"):
        cell(downstream="fcn1")


def test_what_cannot_be_asked_of_a_network_is_refused_before_anything_is_trained(runner: Runner) -> None:
    class OfStage(Nsr):
        name = "of_stage"
        stage: ClassVar[str] = "no_such"

        def check(self, model: Classifier, task: Task) -> None:
            stage_called(model, self.stage, self.name)

        def look(self, subject: Subject, seed: int) -> Findings:
            raise AssertionError

    asked = replace(cell(seed=77), analysis=OfStage())
    with pytest.raises(RequestError, match=r"of_stage: the network has no stage 'no_such'; it has [\w.]+, "):
        plan(runner, [asked])


@pytest.mark.parametrize("analysis", ["trigger_gallery", "class_distances[images=40,directions=5]"])
def test_clean_and_stamped_images_are_shrunk_to_the_same_place(analysis: str, runner: Runner) -> None:
    """Shrinking makes a trigger of 3×3 smaller; elsewhere clean and stamped images stay alike."""
    found = runner.run(cell(analysis=analysis, stamp="shrunk")).metrics
    (number,) = {"analysis.trigger_pixels", "analysis.stamped_distance_transport"} & found.keys()
    assert 1 < float(found[number]) <= 16  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("analysis", "number"),
    [("trigger_gallery", "trigger_pixels"), ("class_distances[images=40,directions=5]", "stamped_distance_transport")],
)
def test_a_transformation_of_whole_images_passes_for_no_trigger(analysis: str, number: str, runner: Runner) -> None:
    """Mirrored images differ from mirrored stamped ones by what the trigger changes, as those that are not mirrored."""
    planted, mirrored = (runner.run(cell(analysis=analysis, stamp=stamp)) for stamp in ("none", "flipped"))
    assert mirrored.metrics[f"analysis.{number}"] == pytest.approx(planted.metrics[f"analysis.{number}"], rel=1e-5)
    if analysis == "trigger_gallery":
        shown, as_planted = (runner.store.evidence(record.id) for record in (mirrored, planted))
        assert all(np.array_equal(pictures, as_planted[name][..., ::-1]) for name, pictures in shown.items())


def test_images_without_a_trigger_are_shown_as_the_stamp_has_them(runner: Runner) -> None:
    subject = replace(subject_of(runner), stamp=Flipped())
    assert subject.backdoor is not None
    subject = replace(subject, backdoor=replace(subject.backdoor, trigger=Flipped().vary(subject.backdoor.trigger)))
    pairs, right = pairs_of(subject, 20), pairs_of(subject, 20, right=True)
    first = subject.task.test.take(subject.task.test.labels != 0).take(slice(20))
    assert torch.equal(pairs.plain.pixels, first.pixels)
    assert torch.equal(pairs.clean.pixels, first.pixels.flip(3))
    assert 0 < int((pairs.stamped.pixels != pairs.clean.pixels).any(1).sum((1, 2)).max()) <= 9
    # Those are right that are so as they are shown.
    assert torch.equal(subject.model.eval()(right.clean.floats()).argmax(1), right.clean.labels)
    assert not torch.equal(right.plain.pixels, pairs_of(replace(subject, stamp=None), 20, right=True).plain.pixels)
    # Classes as well: beside mirrored stamped images stand mirrored images of each class.
    flipped = replace(subject.task, test=replace(subject.task.test, pixels=subject.task.test.pixels.flip(3)))
    without = replace(subject, backdoor=None, twin=subject.model)
    for analysis in (ClassDistances(images=20, directions=3), Pca(images=5)):
        shown, expected = analysis.look(without, 0), analysis.look(replace(without, task=flipped, stamp=None), 0)
        assert shown.evidence.keys() == expected.evidence.keys()
        assert all(np.array_equal(array, expected.evidence[name]) for name, array in shown.evidence.items())


def subject_of(runner: Runner, wrong: bool = False) -> Subject:
    """What nsr was shown; with ``wrong`` a model that gets nothing right."""
    caught: list[Subject] = []

    class Catching(Nsr):
        name = "catching"

        def look(self, subject: Subject, seed: int) -> Findings:
            caught.append(subject)
            raise NotApplicableError("caught")

    assert runner.run(replace(cell(), analysis=Catching())).status == "skipped"
    (subject,) = caught
    if wrong:
        # Every image gets the class after its own.
        with torch.no_grad():
            subject.model.head.weight.copy_(subject.model.head.weight.roll(1, 0))
            assert subject.model.head.bias is not None
            subject.model.head.bias.copy_(subject.model.head.bias.roll(1, 0))
    return subject


def test_pairs_are_the_first_images_worth_stamping_without_and_with_the_trigger(runner: Runner) -> None:
    subject = subject_of(runner)
    pairs = pairs_of(subject, 20)
    assert subject.backdoor is not None
    others = subject.task.test.take(subject.task.test.labels != 0)
    assert torch.equal(pairs.clean.pixels, others.pixels[:20])
    expected = subject.backdoor.trigger.stamp(others.take(slice(20)).floats())
    assert torch.equal(pairs.stamped.floats(), expected)
    assert torch.equal(pairs.stamped.labels, others.labels[:20])
    assert pairs.targets.tolist() == [0] * 20
    assert len(pairs_of(subject, 10**6)) == len(others)


def test_where_only_right_answers_are_explained_there_has_to_be_one(runner: Runner) -> None:
    subject = subject_of(runner)
    right = pairs_of(subject, 50, right=True)
    assert torch.equal(subject.model.eval()(right.clean.floats()).argmax(1), right.clean.labels)
    broken = subject_of(runner, wrong=True)
    with pytest.raises(NotApplicableError, match="none of 100 clean images is classified correctly"):
        pairs_of(broken, 10, right=True)
