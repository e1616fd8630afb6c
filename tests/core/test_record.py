"""Records, populations and verdicts say in one line what they are, and a notebook shows them as a small table."""

import re
from pathlib import Path

import pytest
import torch

from gifthorse.core.outcomes import ModelVerdict, RecoveredTriggers
from gifthorse.core.record import Population, Record
from records import STRIP, model, population, record

TUNED = {"head": {"name": "fcn1", "tuning": "full"}, "dataset": {"name": "digits", "size": 16}}
POPULATION = population(
    [model(1.0)],
    [model(2.0)],
    auroc=0.75,
    auroc_interval=(0.5, 1.0),
    tpr_at_fpr={"0.1": 0.5},
    flagged_benign=0.0,
)


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (record(), "<Record badnets on digits/small_cnn, seed 0: done, attack.asr 99.0 %>"),
        (
            record(seed=3, defense=STRIP, metrics={"defense.auroc": 0.9}),
            "<Record badnets → strip on digits/small_cnn, seed 3: done, attack.asr 99.0 %, defense.auroc 0.900>",
        ),
        (
            record(downstream=TUNED, metrics={"downstream.asr": 0.5}),
            "<Record badnets → fcn1 on digits/small_cnn, seed 0: done, attack.asr 99.0 %, downstream.asr 50.0 %>",
        ),
        (
            record(
                model={"name": "torchvision", "arch": "resnet50"}, status="failed", reason="ValueError:\n" + "x " * 99
            ),
            "<Record badnets on digits/torchvision/resnet50, seed 0: failed (ValueError: " + "x " * 33 + "x…)>",
        ),
        (record(defense={"name": "own"}, family="novel"), "<Record badnets → own on digits/small_cnn, seed 0: done"),
        (
            POPULATION,
            (
                "<Population neural_cleanse on 1 benign and 1 trojaned models, badnets on digits/small_cnn: "
                "AUROC 0.750 [0.500, 1.000]>"
            ),
        ),
    ],
)
def test_a_document_is_one_line(found: Record | Population, said: str) -> None:
    assert repr(found).startswith(said)
    assert str(found) == repr(found)
    assert "\n" not in repr(found)


def test_a_notebook_shows_what_was_measured() -> None:
    html = record(defense=STRIP, metrics={"defense.auroc": 0.9, "defense.scores": [1.0, 2.5], "odd": 3})._repr_html_()
    assert html.startswith("<table><caption>badnets → strip on digits/small_cnn, seed 0: done")
    for row in (
        "<tr><th>trojan: attack success rate</th><td>99.0 %</td></tr>",
        "<tr><th>area under the ROC curve</th><td>0.900</td></tr>",
        "<tr><th>score per class</th><td>1.00 2.50</td></tr>",
        "<tr><th>the attack took</th><td>yes</td></tr>",
        "<tr><th>odd</th><td>3.00</td></tr>",
    ):
        assert row in html
    shown = POPULATION._repr_html_()
    assert "<tr><th>AUROC of defense.index</th><td>0.750 [0.500, 1.000]</td></tr>" in shown
    assert "<tr><th>TPR at FPR 0.1</th><td>0.500</td></tr>" in shown
    assert "<tr><th>flagged benign models</th><td>0.000</td></tr>" in shown


def test_nothing_in_a_record_becomes_markup_in_a_notebook() -> None:
    hostile = "</td><script>alert(1)</script>"
    html = record(attack={"name": hostile}, reason=hostile, metrics={hostile: 1})._repr_html_()
    assert "<script>" not in html
    assert html.count("<table>") == html.count("</table>") == 1


def test_a_verdict_says_what_it_found_and_no_tensor() -> None:
    triggers = RecoveredTriggers(torch.zeros(10, 1, 8, 8), torch.zeros(10, 1, 8, 8))
    scores = torch.tensor([0.0, 1.0, 0.5, 9.0])
    verdict = ModelVerdict(scores, 3, triggers, {"ratio": 2.5})
    assert re.fullmatch(r"<ModelVerdict flagged, index \d+\.\d+, class 3 is suspect>", repr(verdict))
    assert "<tr><th>ratio</th><td>2.5</td></tr>" in verdict._repr_html_()
    assert repr(ModelVerdict(None, None, decisive=0.5, flagged=False)) == "<ModelVerdict not flagged, index 0.5>"


def test_a_record_of_before_artifacts_were_named_tells_none(tmp_path: Path) -> None:
    assert Record.from_json(record().to_json().replace('"artifacts": null,', "")).artifacts is None
    assert Record.from_json(record(artifacts={"benign": "k"}).to_json()).artifacts == {"benign": "k"}
