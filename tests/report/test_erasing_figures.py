"""What erasers cost and leave, as figures: the records' own numbers, the fit through them, and of how many they are."""

import re
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from gifthorse.core.record import Record
from gifthorse.report import figures
from gifthorse.report.cells import ReportCell
from gifthorse.report.drawings import drawings
from gifthorse.report.drawings.material import Material
from gifthorse.report.html import render
from gifthorse.report.logistic import logistic_fit
from gifthorse.report.style import styled
from records import ATTACK, bare

Evidence = dict[str, dict[str, np.ndarray]]


def erased(lr: float, acc: float, asr: float, defense: str = "nad", **changes: Any) -> Record:
    metrics = ATTACK | {"defense.acc": acc, "defense.asr": asr} | changes.pop("metrics", {})
    given = {"defense": {"name": defense, "lr": lr}, "family": "sanitization", "metrics": metrics}
    return bare(**given | changes)


def drawn(kind: str, *records: Record, evidence: Evidence | None = None) -> dict[str, Figure]:
    kept = evidence or {}
    material = Material(records, (), {each.id for each in records}, lambda identity: kept.get(identity, {}))
    with styled():
        found = {each.name: each.draw() for each in drawings(material, [kind])}
    return {name: figure for name, figure in found.items() if figure is not None}


def note(figure: Figure) -> str:
    return " ".join(figure.get_supxlabel().replace("\N{NO-BREAK SPACE}", " ").split())


SWEPT = [(0.002, 0.95, 0.99), (0.006, 0.94, 0.9), (0.01, 0.92, 0.5), (0.02, 0.88, 0.05)]


def test_the_fit_finds_the_curve_that_points_lie_on() -> None:
    accuracy = np.linspace(0.8, 0.95, 7)
    success = 1 / (1 + np.exp(-60 * (accuracy - 0.9)))
    fit = logistic_fit(accuracy.tolist(), success.tolist())
    assert fit is not None
    assert fit.slope == pytest.approx(60, rel=0.01)
    assert fit.middle == pytest.approx(0.9, abs=1e-3)
    assert fit(accuracy) == pytest.approx(success, abs=5e-3)
    assert fit(np.array([fit.accuracy_at(0.1)])) == pytest.approx([0.1])


@pytest.mark.parametrize(
    ("accuracy", "success"),
    [([0.9, 0.95], [0.1, 0.9]), ([0.9, 0.9, 0.95], [0.1, 0.2, 0.9]), ([0.8, 0.9, 0.95], [1.0, 1.0, 1.0])],
)
def test_there_is_no_fit_where_there_is_nothing_to_fit(accuracy: list[float], success: list[float]) -> None:
    assert logistic_fit(accuracy, success) is None


def test_one_accuracy_may_part_all_that_succeed_from_all_that_fail() -> None:
    fit = logistic_fit([0.8, 0.85, 0.9, 0.95], [0.0, 0.0, 1.0, 1.0])
    assert fit is not None
    assert np.isfinite([fit.slope, fit.middle]).all()
    assert 0.85 < fit.middle < 0.9


def test_a_trade_off_shows_a_point_for_each_model_and_where_the_fit_crosses() -> None:
    records = [erased(*each) for each in SWEPT] + [erased(0.1, 0.94, 0.02, "dhbe")]
    ((name, figure),) = drawn("tradeoff", *records).items()
    assert name == "tradeoff-digits-small_cnn-badnets"
    (axes,) = figure.axes
    nad, dhbe = axes.collections
    assert np.asarray(nad.get_offsets()) == pytest.approx(np.array([[100 * a, 100 * s] for _, a, s in SWEPT]))
    assert np.asarray(dhbe.get_offsets()) == pytest.approx(np.array([[94, 2]]))
    found = axes.get_legend()
    assert found is not None
    first, second = (text.get_text() for text in found.get_texts())
    fit = logistic_fit([a for _, a, _ in SWEPT], [s for *_, s in SWEPT])
    assert fit is not None
    assert first == f"nad: ASR 10% at accuracy {fit.accuracy_at(0.1):.1%}"
    assert second == "dhbe"
    assert "n = 1 to 4 models, 1 to 4 learning rates a defense" in note(figure)
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("accuracy [%]", "attack success rate [%]")


def test_a_trade_off_needs_three_learning_rates_and_shows_triggers_as_they_were_planted() -> None:
    two = [erased(*each) for each in SWEPT[:2]]
    assert not drawn("tradeoff", *two, *(erased(*each, seed=1) for each in SWEPT[:2]))
    assert not drawn("tradeoff", *two, erased(*SWEPT[2], stamp={"name": "amplified", "copies": 4}))


def test_hollow_points_are_of_attacks_that_did_not_take() -> None:
    records = [erased(*each, metrics={"attack.valid": each[0] != 0.01}) for each in SWEPT]
    (figure,) = drawn("tradeoff", *records).values()
    faces = np.asarray(figure.axes[0].collections[0].get_facecolor())
    assert (faces[2] == 1).all()
    assert not (faces[0] == 1).all()
    assert "hollow: the attack did not take" in note(figure)


def distances(*values: float) -> np.ndarray:
    return np.array([[2 * each for each in values], values], np.float32)


def test_differences_are_boxes_of_every_images_distance() -> None:
    first, second = erased(0.01, 0.9, 0.1), erased(0.1, 0.9, 0.0, "dhbe")
    before = {"attack_latent_differences": distances(5, 6, 7), "attack_logit_differences": distances(9, 9, 9)}
    evidence: Evidence = {
        first.id: before | {"defense_latent_differences": distances(1, 2, 3)},
        second.id: before | {"defense_latent_differences": distances(0, 0, 4)},
    }
    ((name, figure),) = drawn("differences", first, second, evidence=evidence).items()
    assert name == "differences-digits-small_cnn-badnets"
    axes = figure.axes[1]
    assert axes.get_xlabel() == "L2 distance, penultimate layer"
    # Before any defense is there once, though it is in both records.
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["no defense", "nad", "dhbe"]
    boxes = [each for each in axes.patches if isinstance(each, Rectangle)]
    assert [(each.get_x(), each.get_width()) for each in boxes] == [(5.5, 1.0), (1.5, 1.0), (0.0, 2.0)]
    assert [each.get_width() for each in figure.axes[0].patches] == [2.0, 2.0, 4.0]  # type: ignore[attr-defined]
    assert "n = 3 images of 1 model" in note(figure)
    assert not drawn("differences", first)


def test_samples_stand_beside_test_images() -> None:
    record = erased(0.1, 0.9, 0.0, "dhbe", metrics={"defense.agreement_on_samples": 0.9})
    pixels = np.zeros((3, 1, 16, 16), np.uint8)
    evidence: Evidence = {record.id: {"samples": pixels, "clean": pixels[:2]}}
    (figure,) = drawn("samples", record, evidence=evidence).values()
    words = " ".join(text.get_text() for text in figure.axes[0].texts)
    assert "generated" in words
    assert "test images" in words
    assert "n = 3 of the samples" in " ".join(words.split())
    assert len(figure.axes[0].images) == 5
    assert not drawn("samples", record)
    assert not drawn("samples", erased(0.1, 0.9, 0.0, "dhbe"), evidence=evidence)


def page(record: Record, **arrays: np.ndarray) -> str:
    return render([ReportCell(record, lambda: arrays)], [])


def test_a_page_shows_how_far_the_trigger_moves_activations_before_and_after() -> None:
    record = erased(0.1, 0.9, 0.0)
    before, after = distances(5, 6, 7), distances(1, 2, 3)
    shown = page(record, attack_latent_differences=before, defense_latent_differences=after)
    assert "medians: before 6, after 2" in shown
    assert "How far the trigger moves the penultimate layer" in shown
    for arrays in ({"attack_latent_differences": before}, {"defense_latent_differences": after}):
        assert "How far the trigger moves" not in page(record, **arrays)
    broken = np.full_like(after, np.nan)
    assert "How far" not in page(record, attack_latent_differences=before, defense_latent_differences=broken)


def test_a_page_shows_what_an_eraser_sees_of_its_own_result() -> None:
    own = {"defense.agreement": 0.97, "defense.found_asr_before": 1.0, "defense.found_asr_after": 0.125}
    shown = page(erased(0.1, 0.9, 0.0, metrics=own), samples=np.zeros((3, 1, 16, 16), np.uint8))
    assert "Samples that the defense generated" in shown
    for title, text in (
        ("agreement with the delivered model", "97.0%"),
        ("found triggers: ASR on the delivered model", "100.0%"),
        ("found triggers: ASR after the defense", "12.5%"),
    ):
        assert re.search(rf"{re.escape(title)}.*?{re.escape(text)}", shown, re.DOTALL)


def test_without_matplotlib_a_page_says_what_charts_need(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(figures, "can_draw", lambda: False)
    assert figures.difference_chart({"before": np.ones(3)}).count(figures.INSTALL.replace("'", "&#39;")) == 1
