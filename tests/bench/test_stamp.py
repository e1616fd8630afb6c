"""Cells whose trigger is shown otherwise than planted: keys, records, defenses, and requests that are refused."""

import json
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from gifthorse.bench.cell import Cell, resolve
from gifthorse.bench.plan import plan
from gifthorse.bench.runner import Runner
from gifthorse.bench.store import Store
from gifthorse.core.errors import RequestError
from gifthorse.core.record import Record


def cell(**request: Any) -> Cell:
    quick = {"dataset": "digits", "training": "standard[epochs=4]", "profile": "smoke", "attack": "badnets"}
    return resolve(**{**quick, **request})


@pytest.fixture(scope="module")
def runner(tmp_path_factory: pytest.TempPathFactory) -> Runner:
    """One store for the module, so that benign model and trojan are trained once."""
    return Runner(Store(tmp_path_factory.mktemp("runs")), Path("unused"), torch.device("cpu"))


def test_a_cell_without_a_stamp_keeps_its_identity() -> None:
    plain, defended = cell(), cell(defense="shrinkpad")
    assert plain.identity() == plain._key({"trojan": plain.trojan_key(), "profile": "smoke"})
    assert plain.identity() == cell(stamp="none").identity()
    expected = defended._key({"trojan": defended.trojan_key(), "profile": "smoke"}, defense=defended.defense)
    assert defended.identity() == expected


def test_a_stamp_is_in_the_identity_and_the_trojan_is_shared() -> None:
    plain, defended = cell(), cell(defense="shrinkpad")
    requests = ("amplified", "amplified[copies=9]", "shifted", "shifted[down=3]")
    varied = [cell(stamp=each) for each in requests] + [cell(stamp=each, defense="shrinkpad") for each in requests]
    assert len({each.identity() for each in (plain, defended, *varied)}) == 2 + len(varied)
    assert {each.trojan_key() for each in varied} == {plain.trojan_key()}
    assert cell(stamp="amplified[copies=4]").identity() == varied[0].identity()


def test_a_record_says_how_the_trigger_was_shown_and_reads_back(runner: Runner) -> None:
    record = runner.run(cell(stamp="shifted[down=5]"))
    assert record.status == "done"
    assert record.stamp == {"name": "shifted", "down": 5, "right": 2}
    assert {"stamp.asr", "stamp.benign_asr", "attack.asr", "attack.valid"} <= record.metrics.keys()
    assert "stamp.acc" not in record.metrics
    assert Record.from_json(record.to_json()) == record == runner.run(cell(stamp="shifted[down=5]"))
    assert json.loads(runner.run(cell()).to_json())["stamp"] is None
    assert "badnets → shifted on digits" in repr(record)
    assert "stamp.asr" in repr(record)


def test_the_command_of_a_record_asks_for_the_same_stamp(runner: Runner) -> None:
    record = runner.run(cell(stamp="shifted[down=5]"))
    assert record.command is not None
    words = shlex.split(record.command)[2:]
    said = {option[2:]: value for option, value in zip(words[::2], words[1::2], strict=True)}
    assert said["stamp"] == "shifted[down=5,right=2]"
    assert runner.reading(resolve(**{**said, "seed": int(said["seed"])})).identity() == record.id  # type: ignore[arg-type]


def test_the_attack_is_judged_by_the_trigger_that_was_planted(runner: Runner) -> None:
    plain, varied = runner.run(cell()), runner.run(cell(stamp="shifted[down=5]"))
    assert plain.metrics == {name: value for name, value in varied.metrics.items() if not name.startswith("stamp.")}
    assert plain.doubts == varied.doubts
    assert plain.artifacts is not None
    assert varied.artifacts is not None
    same = ("benign", "twin", "trojan", "judgement")
    assert [plain.artifacts.get(each) for each in same] == [varied.artifacts.get(each) for each in same]


def evidence(runner: Runner, record: Record) -> dict[str, np.ndarray]:
    found = runner.store.load_artifact("evidence", record.id)
    assert found is not None
    return dict(found[0])


def test_the_pictures_are_those_that_were_judged(runner: Runner) -> None:
    moved = evidence(runner, runner.run(cell(stamp="shifted[down=5]")))
    flipped = evidence(runner, runner.run(cell(stamp="flipped")))
    assert (moved["varied"] != moved["stamped"]).any()
    assert np.array_equal(flipped["varied"], flipped["stamped"][..., ::-1])
    assert np.array_equal(flipped["unstamped"], flipped["clean"][..., ::-1])
    assert "unstamped" not in moved


def test_a_defense_meets_the_varied_trigger_and_its_images(runner: Runner) -> None:
    """Two flips leave nothing to flip: by the defense that flips, a flipped image is as it was."""
    plain = runner.run(cell())
    record = runner.run(cell(stamp="flipped", defense="flip"))
    assert record.metrics["defense.asr"] == plain.metrics["attack.asr"] != record.metrics["stamp.asr"]
    assert record.metrics["defense.acc"] == plain.metrics["attack.acc"] != record.metrics["stamp.acc"]
    before = {name: float(record.metrics[f"stamp.{name}"]) for name in ("acc", "asr")}  # type: ignore[arg-type]
    assert record.metrics["defense.cad"] == pytest.approx(before["acc"] - float(record.metrics["defense.acc"]))  # type: ignore[arg-type]
    assert record.metrics["defense.ard"] == pytest.approx(before["asr"] - float(record.metrics["defense.asr"]))  # type: ignore[arg-type]
    found = evidence(runner, record)
    assert np.array_equal(found["reformed"], found["stamped"])


def test_a_screen_is_shown_clean_images_transformed_as_stamped_ones_are(
    runner: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else it would tell transformed images from others, and not stamped ones from clean ones."""
    from gifthorse.stampings.transformed import Flipped

    plain = evidence(runner, runner.run(cell(defense="strip")))
    monkeypatch.setattr(Flipped, "transform", lambda self, pixels, generator=None: pixels)
    same = evidence(runner, runner.run(cell(defense="strip", stamp="flipped")))
    monkeypatch.setattr(Flipped, "transform", lambda self, pixels, generator=None: torch.zeros_like(pixels))
    black = evidence(runner, runner.run(cell(defense="strip", stamp="flipped"), fresh=True))
    for kind in ("clean_scores", "stamped_scores"):
        assert np.allclose(same[kind], plain[kind])
    assert set(black["clean_scores"].tolist()) == set(black["stamped_scores"].tolist())
    assert len(set(black["clean_scores"].tolist())) == 1


@pytest.mark.parametrize(
    ("request_", "reason"),
    [
        ({"attack": "none", "stamp": "shifted"}, "there is no backdoor, and so no trigger to vary"),
        ({"attack": "targeted_blend", "stamp": "amplified"}, "needs a trigger with the same pixels in every image"),
        ({"attack": "badnets[trigger_pattern=black]", "stamp": "recoloured"}, "nothing to recolour"),
        ({"defense": "neural_cleanse", "stamp": "amplified"}, "sees no stamped image"),
    ],
)
def test_what_a_stamp_says_nothing_of_is_skipped_with_a_sentence(
    request_: dict[str, str], reason: str, runner: Runner
) -> None:
    record = runner.run(cell(**request_))
    assert (record.status, reason in (record.reason or "")) == ("skipped", True), record.reason
    assert "attack.acc" in record.metrics


def test_a_benign_model_has_the_accuracy_of_transformed_images(runner: Runner) -> None:
    record = runner.run(cell(attack="none", stamp="flipped"))
    assert record.status == "done"
    assert "stamp.acc" in record.metrics
    assert "stamp.asr" not in record.metrics


def test_requests_that_cannot_be_carried_out_are_refused_before_training(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"a stamp \(shifted\) and a downstream head \(fcn1\) cannot be combined"):
        cell(stamp="shifted", downstream="fcn1")
    with pytest.raises(RequestError, match="no stamp is called 'shift'"):
        cell(stamp="shift")
    empty = Runner(Store(tmp_path), Path("unused"), torch.device("cpu"))
    with pytest.raises(RequestError, match="down=16 moves the trigger out of images of 16×16"):
        plan(empty, [cell(stamp="shifted[down=16]")])
    with pytest.raises(RequestError, match="leaves nothing of images of 16×16"):
        empty.run(cell(stamp="shrunk[pixels=16]"))
    assert not list(tmp_path.rglob("*.safetensors"))
