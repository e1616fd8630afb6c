"""Figures show the records' own numbers, all of them alike whenever they are drawn, and say how many there were."""

import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, QuadMesh
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import StepPatch
from scipy import stats
from sklearn.metrics import roc_auc_score, roc_curve

from gifthorse.bench.query import select
from gifthorse.bench.store import Store
from gifthorse.cli import figures as command
from gifthorse.cli.filters import conditions as read
from gifthorse.core.errors import RequestError, StoreError
from gifthorse.core.metric import METRICS
from gifthorse.core.record import Member, Population, Record
from gifthorse.report import figures as inline
from gifthorse.report.cells import ReportCell
from gifthorse.report.drawings import KINDS, drawings
from gifthorse.report.drawings.material import Material, Part
from gifthorse.report.drawings.matrices import matrix_of
from gifthorse.report.evidence import matted
from gifthorse.report.html import render
from gifthorse.report.intervals import mean_interval
from gifthorse.report.plots import Bars
from gifthorse.report.style import UNDATED, encode, styled
from records import BADNETS, bare, model, population

NAMES = ["plane", "car", "bird", "cat"]
TOOK = {"attack.acc": 0.95, "attack.asr": 0.99, "benign.asr": 0.01, "attack.valid": True, "attack.targets": [1.0]}
DEFENSES = {
    "strip": "filtering",
    "teco": "filtering",
    "fine_pruning": "sanitization",
    "shrinkpad": "reformation",
    "neural_cleanse": "inspection",
    "abs": "inspection",
}

Evidence = dict[str, dict[str, np.ndarray]]


def record(defense: str | None = None, metrics: Mapping[str, Any] = TOOK, **changes: Any) -> Record:
    followed = {"defense": {"name": defense, "steps": 9}, "family": DEFENSES[defense]} if defense else {}
    return bare(**{"profile": "smoke", "class_names": NAMES, "metrics": dict(metrics)} | followed | changes)


def material(*records: Record, evidence: Evidence | None = None, **changes: Any) -> Material:
    values: dict[str, Any] = {
        "records": records,
        "populations": (),
        "chosen": {each.id for each in records},
        "evidence": lambda identity: (evidence or {}).get(identity, {}),
    }
    return Material(**values | changes)


def drawn(kind: str, given: Material) -> dict[str, Figure]:
    with styled():
        found = {each.name: each.draw() for each in drawings(given, [kind])}
    return {name: figure for name, figure in found.items() if figure is not None}


def only(figures: Mapping[str, Figure]) -> Figure:
    (figure,) = figures.values()
    return figure


def note(figure: Figure) -> str:
    """Return the small print, as one line."""
    texts = [figure.get_supxlabel(), *(text.get_text() for axes in figure.axes for text in axes.texts)]
    return " ".join(max(texts, key=len).replace("\N{NO-BREAK SPACE}", " ").split())


def points(line: Line2D) -> np.ndarray:
    return np.asarray(line.get_xydata(), float)


def curves(axes: Axes) -> list[Line2D]:
    """Return the lines but the diagonal and the markers."""
    return [line for line in axes.lines if len(points(line)) > 2]


def legend(axes: Axes) -> list[str]:
    found = axes.get_legend()
    assert found is not None
    return [text.get_text() for text in found.get_texts()]


# ---- along a field


def rates(*values: tuple[float, int, float]) -> list[Record]:
    """Return attacks by poison rate, seed and success."""
    return [
        record(
            attack=BADNETS | {"poison_rate": rate},
            seed=seed,
            metrics=TOOK | {"attack.asr": asr, "attack.valid": asr >= 0.8},
        )
        for rate, seed, asr in values
    ]


def test_a_sweep_shows_the_means_of_the_records_with_students_intervals() -> None:
    found = rates((0.01, 0, 0.5), (0.01, 1, 0.6), (0.01, 2, 0.9), (0.1, 0, 0.97), (0.1, 1, 1.0), (0.1, 2, 0.99))
    ((name, figure),) = drawn("sweep", material(*found)).items()
    assert name == "sweep-digits-small_cnn-badnets-by_poison_rate"
    (axes,) = figure.axes
    (bars,) = [each for each in axes.containers if each.get_label() == "ASR" and isinstance(each, ErrorbarContainer)]
    means, _, (spans,) = bars.lines
    assert points(means) == pytest.approx(np.array([[0.01, 200 / 3], [0.1, 296 / 3]]))
    assert isinstance(spans, LineCollection)
    for span, values in zip(spans.get_segments(), ([0.5, 0.6, 0.9], [0.97, 1.0, 0.99]), strict=True):
        ends = stats.t.interval(0.95, len(values) - 1, np.mean(values), stats.sem(values))
        assert span[:, 1] == pytest.approx(100 * np.clip(ends, 0, 1))
    assert axes.get_ylabel() == "share of images [%]"
    assert axes.get_xlabel() == "poison_rate of badnets"
    assert legend(axes) == ["ASR", "Benign ASR", "Accuracy"]
    assert "n = 3 seeds, means with 95 % intervals by Student’s t" in note(figure)


def test_a_mean_of_one_seed_has_no_interval_and_says_so() -> None:
    figure = only(drawn("sweep", material(*rates((0.01, 0, 0.5), (0.1, 0, 0.9)))))
    assert "n = 1 seed, no interval from one seed" in note(figure)
    assert mean_interval([0.5]) is None
    spans = [each for each in figure.axes[0].collections if isinstance(each, LineCollection)]
    assert all(np.ptp(segment[:, 1]) == 0 for each in spans for segment in each.get_segments())


def test_only_what_differs_in_one_number_is_a_sweep() -> None:
    one, other = rates((0.01, 0, 0.5)), rates((0.1, 0, 0.9))
    assert drawn("sweep", material(*one, *other))
    assert not drawn("sweep", material(*one, *rates((0.01, 1, 0.5))))
    further = [each.model_copy(update={"model": each.model | {"width": 32}}) for each in other]
    assert not drawn("sweep", material(*one, *further))
    flags = [record(attack=BADNETS | {"clip": clip}) for clip in (True, False)]
    targets = [record(attack=BADNETS | {"target": target}) for target in (1, 2)]
    assert not drawn("sweep", material(*flags))
    assert not drawn("sweep", material(*targets))
    nested = [record(attack={"name": "wrapper", "base": BADNETS | {"poison_rate": rate}}) for rate in (0.1, 0.2)]
    assert list(drawn("sweep", material(*nested))) == ["sweep-digits-small_cnn-wrapper-by_base.poison_rate"]


def test_a_varied_trigger_is_a_curve_without_a_defense_and_after_it() -> None:
    def moved(down: int, asr: float, defense: str | None = None) -> Record:
        metrics = TOOK | {"stamp.asr": asr, "stamp.benign_asr": 0.1, "defense.asr": asr / 2}
        return record(defense, metrics, stamp={"name": "shifted", "down": down, "right": 0})

    found = [moved(down, asr) for down, asr in ((1, 0.9), (2, 0.4))]
    found += [moved(down, asr, defense="fine_pruning") for down, asr in ((1, 0.9), (2, 0.4))]
    figures = drawn("sweep", material(*found))
    assert set(figures) == {
        "sweep-digits-small_cnn-badnets-shifted-by_down",
        "sweep-digits-small_cnn-badnets-fine_pruning-shifted-by_down",
    }
    (axes,) = figures["sweep-digits-small_cnn-badnets-shifted-by_down"].axes
    assert legend(axes) == ["ASR", "Benign ASR"]
    assert points(axes.lines[0]) == pytest.approx(np.array([[1, 90], [2, 40]]))
    assert axes.get_xlabel() == "down of shifted"
    defended = figures["sweep-digits-small_cnn-badnets-fine_pruning-shifted-by_down"]
    assert "fine_pruning on shifted on badnets" in note(defended)


def test_an_attack_counts_once_for_each_of_its_models_whatever_followed_it() -> None:
    found = rates((0.01, 0, 0.5), (0.1, 0, 0.9))
    followed = [each.model_copy(update={"id": f"{each.id}x"}) for each in found for _ in range(3)]
    assert "n = 1 seed," in note(only(drawn("sweep", material(*found, *followed))))


def test_a_defense_is_swept_along_the_attacks_field_and_gets_no_credit_where_that_did_not_take() -> None:
    found = [
        each.model_copy(
            update={
                "id": f"{each.id}-strip",
                "defense": {"name": "strip", "fpr": 0.05},
                "family": "filtering",
                "metrics": dict(each.metrics) | {"defense.tpr": 0.4, "defense.fpr": 0.05, "defense.auroc": 0.7},
            }
        )
        for each in rates((0.01, 0, 0.5), (0.1, 0, 0.9))
    ]
    figures = drawn("sweep", material(*found))
    figure = figures["sweep-digits-small_cnn-badnets-strip-by_poison_rate"]
    (axes,) = figure.axes
    hollow = [line for line in axes.lines if line.get_markerfacecolor() == "#ffffff"]
    assert [line.get_xdata() for line in hollow] == [[0.01], [0.01]]
    assert "strip on badnets" in note(figure)
    assert "hollow: the attack did not take" in note(figure)
    asked = drawn("sweep", material(*found, metrics=("defense.auroc", "attack.acc")))
    assert [figure.axes[0].get_ylabel() for figure in asked.values()] == [
        "trojan: accuracy [%]",
        "area under the ROC curve",
    ]


# ---- attack × defense


def test_every_attack_meets_every_defense_in_a_matrix_and_no_hole_is_silent() -> None:
    weak = {"attack.valid": False}

    def repaired(defense: str, asr: float, seed: int = 0, **changes: Any) -> Record:
        return record(defense, TOOK | {"defense.asr": asr} | changes.pop("metrics", {}), seed=seed, **changes)

    blended = {"name": "blended", "alpha": 0.2}
    found = [
        repaired("shrinkpad", 0.5),
        repaired("shrinkpad", 0.7, seed=1),
        record("shrinkpad", {}, seed=2, status="failed", reason="boom"),
        repaired("fine_pruning", 0.1, metrics=weak),
        record("fine_pruning", {}, attack=blended, status="skipped", reason="needs more"),
        record("fine_pruning", {"attack.acc": 0.9, "defense.acc": 0.9}, attack={"name": "none"}),
        record("strip", TOOK | {"defense.auroc": 0.9}),
    ]
    figures = drawn("matrix", material(*found))
    assert set(figures) == {f"matrix-digits-small_cnn-{name}" for name in ("asr", "acc", "auroc")}
    figure = figures["matrix-digits-small_cnn-asr"]
    axes = figure.axes[0]
    texts = {text.get_position(): text.get_text() for text in axes.texts}
    low, high = (100 * end for end in stats.t.interval(0.95, 1, 0.6, stats.sem([0.5, 0.7])))
    assert (low, high) == pytest.approx((-67.06, 187.06), abs=0.01)
    assert [label.get_text() for label in axes.get_yticklabels()] == ["none", "badnets", "blended"]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["shrinkpad", "fine_pruning"]
    assert texts == {
        (0.5, 0.5): "not run",
        (1.5, 0.5): "–",
        (0.5, 1.5): "60.0*\n[0.0, 100.0]",
        (1.5, 1.5): "10.0†",
        (0.5, 2.5): "not run",
        (1.5, 2.5): "skipped",
    }
    (mesh,) = [each for each in axes.collections if isinstance(each, QuadMesh)]
    shades: np.ndarray = np.ma.asarray(mesh.get_array()).filled(-1)
    assert shades == pytest.approx(np.array([[-1, -1], [60, 10], [-1, -1]]))
    assert mesh.get_clim() == (0, 100)
    for said in ("n = 1 to 2 seeds", "* fewer seeds", "† the attack did not take", "– does not apply"):
        assert said in note(figure)
    assert axes.get_title(loc="left") == "attack success rate after the defense [%]"


def test_flags_are_counted_in_a_matrix_and_numbers_within_labels_sorted_by_size() -> None:
    found = [
        record(
            "neural_cleanse", TOOK | {"defense.flagged": seed != 1}, seed=seed, attack=BADNETS | {"poison_rate": rate}
        )
        for rate in (0.1, 0.02)
        for seed in range(3)
    ]
    axes = only(drawn("matrix", material(*found))).axes[0]
    assert [text.get_text() for text in axes.texts] == ["2 of 3", "2 of 3"]
    assert [label.get_text() for label in axes.get_yticklabels()] == [
        "badnets[poison_rate=0.02]",
        "badnets[poison_rate=0.1]",
    ]


def test_names_do_not_depend_on_what_is_chosen() -> None:
    found = [
        record("strip", TOOK | {"defense.auroc": 0.9}, attack=BADNETS | {"poison_rate": rate}) for rate in (0.1, 0.2)
    ]
    whole = {each.name for each in drawings(material(*found), ["matrix"])}
    part = material(*found, chosen={found[0].id})
    assert {each.name for each in drawings(part, ["matrix"])} == whole
    (chosen,) = part.parts()
    assert isinstance(chosen, Part)
    matrix = matrix_of(chosen, METRICS["defense.auroc"])
    assert matrix.attacks == ("badnets[poison_rate=0.1]",)


def test_models_of_a_population_with_targets_of_their_own_are_no_rows_of_a_matrix() -> None:
    flagged = TOOK | {"defense.flagged": True}
    models = [record("neural_cleanse", flagged, seed=seed, attack=BADNETS | {"target": seed}) for seed in range(3)]
    members = [Member(id=each.id, seed=each.seed, index=3.0) for each in models]
    given = judged(trojaned=members)
    other = record("neural_cleanse", flagged, attack={"name": "blended"})
    axes = only(drawn("matrix", material(*models, other, populations=[given]))).axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["blended"]
    assert not drawn("matrix", material(*models, populations=[given]))
    again = record("abs", flagged, attack=BADNETS | {"target": 0})
    axes = only(drawn("matrix", material(*models, again, populations=[given]))).axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["badnets[target=0]"]


# ---- ROC curves


def screened(seed: int, **changes: Any) -> tuple[Record, dict[str, np.ndarray]]:
    random = np.random.default_rng(seed)
    clean, stamped = np.round(random.normal(0, 1, 60), 1), np.round(random.normal(1, 1, 50), 1)
    threshold = 1.0
    metrics = {
        "defense.auroc": roc_auc_score([0] * 60 + [1] * 50, np.concatenate([clean, stamped])),
        "defense.fpr": float((clean > threshold).mean()),
        "defense.tpr": float((stamped > threshold).mean()),
    }
    arrays = {"clean_scores": clean, "stamped_scores": stamped, "threshold": np.array(threshold)}
    return record("strip", TOOK | metrics, seed=seed, **changes), arrays


def test_a_roc_curve_is_that_of_the_scores_and_its_area_the_recorded_auroc() -> None:
    made = [screened(seed) for seed in range(3)]
    evidence = {each.id: arrays for each, arrays in made}
    ((name, figure),) = drawn("roc", material(*(each for each, _ in made), evidence=evidence)).items()
    assert name == "roc-digits-small_cnn-badnets"
    (axes,) = figure.axes
    markers = [points(line).tolist() for line in axes.lines if line.get_marker() != "None"]
    for curve, (each, arrays) in zip(curves(axes), made, strict=True):
        x, y = points(curve).T / 100
        truth = [0] * 60 + [1] * 50
        scores = np.concatenate([arrays["clean_scores"], arrays["stamped_scores"]])
        fpr, tpr, _ = roc_curve(truth, scores, drop_intermediate=False)
        assert {*zip(x.round(9), y.round(9), strict=True)} <= {*zip(fpr.round(9), tpr.round(9), strict=True)}
        assert y.max(initial=0, where=x == 0) == pytest.approx(tpr.max(initial=0, where=fpr == 0))
        assert np.trapezoid(y, x) == pytest.approx(each.metrics["defense.auroc"])
        rates = (100 * (arrays[f"{style}_scores"] > 1).mean() for style in ("clean", "stamped"))
        assert [pytest.approx(list(rates))] in markers
    aurocs = [float(str(each.metrics["defense.auroc"])) for each, _ in made]
    low, high = stats.t.interval(0.95, 2, np.mean(aurocs), stats.sem(aurocs))
    assert legend(axes) == [f"strip: AUROC {np.mean(aurocs):.3f} [{low:.3f}, {high:.3f}]"]
    assert "n = 3 seeds, a curve each, of 60 clean images and 50 stamped ones" in note(figure)
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("false positive rate [%]", "true positive rate [%]")


def judged(trojaned: Sequence[Member] = (), **changes: Any) -> Population:
    benign, others = ([model(index) for index in found] for found in ([0.5, 1.0, 1.5, 2.5], [2.0, 3.0, 4.0]))
    numbers = {"auroc": 11 / 12, "auroc_interval": (0.5, 0.99), "flagged_benign": 0.25, "flagged_trojaned": 2 / 3}
    return population(benign, trojaned or others, **{"profile": "smoke"} | numbers | changes)


def test_the_curve_of_a_population_is_that_of_its_members_indices() -> None:
    given = [judged(), judged(defense={"name": "abs"}, trojaned=judged().trojaned[1:])]
    ((name, figure),) = drawn("populations", material(populations=given, chosen={each.id for each in given})).items()
    assert name == "populations-digits-small_cnn-badnets"
    (axes,) = figure.axes
    assert legend(axes)[0] == "neural_cleanse: AUROC 0.917 [0.500, 0.990]"
    first = np.array([[0, 0], [0, 2 / 3], [0.25, 2 / 3], [0.25, 1], [1, 1]])
    assert points(curves(axes)[0]) == pytest.approx(100 * first)
    assert [25.0, pytest.approx(200 / 3)] in [points(line)[0].tolist() for line in axes.lines]
    assert "n = 4 benign models and 2 to 3 trojaned ones" in note(figure)
    styles = {(line.get_color(), str(line.get_linestyle())) for line in curves(axes)}
    assert len(styles) == 2


# ---- a cell each


def test_histograms_hold_all_scores_and_the_threshold() -> None:
    each, arrays = screened(0)
    ((name, figure),) = drawn("scores", material(each, evidence={each.id: arrays})).items()
    assert name == "scores-digits-small_cnn-badnets-strip-seed0"
    for axes, style in zip(figure.axes, ("clean", "stamped"), strict=True):
        scores = arrays[f"{style}_scores"]
        (steps,) = [patch for patch in axes.patches if isinstance(patch, StepPatch)]
        shares, edges, _ = steps.get_data()
        assert shares == pytest.approx(100 * np.histogram(scores, edges)[0] / len(scores))
        assert shares.sum() == pytest.approx(100)
        (threshold,) = axes.lines
        assert threshold.get_xdata() == [1.0, 1.0]
        assert f"{style} images, n = {len(scores)}" in [text.get_text() for text in axes.texts]
        assert axes.get_ylabel() == "images [%]"
    assert "strip" in figure.axes[-1].get_xlabel()


def inspected(**changes: Any) -> tuple[Record, dict[str, np.ndarray]]:
    random = np.random.default_rng(0)
    masks = random.random((4, 1, 6, 6)).astype(np.float32)
    masks[1] *= 0.1
    scores = [-float(mask.sum()) for mask in masks]
    metrics = {"defense.index": 3.0, "defense.scores": scores, "defense.held_out_asr": [0.1, 0.9, 0.2, 0.3]}
    metrics |= {"defense.suspect_class": 1}
    arrays = {"masks": masks, "patterns": random.integers(0, 256, (4, 3, 6, 6), np.uint8)}
    return record("neural_cleanse", TOOK | metrics, **changes), arrays


def test_the_bar_of_a_class_has_its_height_and_its_name_beside_its_number() -> None:
    each, arrays = inspected()
    figure = only(drawn("classes", material(each, evidence={each.id: arrays})))
    (axes,) = figure.axes
    heights = {}
    for bars in (each for each in axes.collections if isinstance(each, Bars)):
        for path in bars.get_paths():
            (left, low), (right, high) = np.asarray(path.vertices, float)[[0, 2]].tolist()
            assert (low, right - left) == (0, pytest.approx(0.72))
            heights[round(left + 0.36)] = (high, bars.get_hatch())
    norms = [float(np.abs(mask).sum()) for mask in arrays["masks"]]
    assert [heights[index][0] for index in range(4)] == pytest.approx(norms)
    assert [index for index, (_, hatch) in heights.items() if hatch] == [1]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["0 (plane)", "1 (car)", "2 (bird)", "3 (cat)"]
    (median,) = [line for line in axes.lines if line.get_marker() == "None"]
    assert median.get_ydata() == pytest.approx([np.median(norms)] * 2)
    (target,) = [line for line in axes.lines if line.get_marker() == "^"]
    assert target.get_xdata() == [1]
    assert axes.get_ylabel() == "L1 norm of the recovered mask"
    assert "n = 4 classes; hatched: the suspect, class 1 (car); ▲ true target" in note(figure)


# ---- pictures


def pictures() -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    clean = random.integers(0, 200, (3, 1, 6, 6), np.uint8)
    stamped = clean.copy()
    stamped[:, :, -2:, -2:] = 255
    trigger = np.stack([np.zeros((1, 6, 6), np.uint8), np.full((1, 6, 6), 255, np.uint8)])
    trigger[:, :, -2:, -2:] = 255
    return {
        "clean": clean,
        "stamped": stamped,
        "labels": np.array([0, 2, 3]),
        "clean_predictions": np.array([0, 2, 1]),
        "targets": np.array([1, 1, 1]),
        "stamped_predictions": np.array([1, 0, 1]),
        "trigger": trigger,
        "true_mask": (trigger[0] / 255).astype(np.float32),
    }


def shown(figure: Figure) -> list[np.ndarray]:
    return [np.asarray(image.get_array()) for image in figure.axes[0].images]


def captions(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.axes[0].texts]


def test_stamped_images_tell_the_true_and_the_predicted_class_by_number_and_name() -> None:
    repaired = record("shrinkpad", TOOK | {"defense.asr": 0.1})
    arrays = pictures()
    after = arrays | {"reformed": 255 - arrays["stamped"], "defended_predictions": np.array([0, 1, 3])}
    figure = only(drawn("stamped", material(repaired, evidence={repaired.id: after})))
    for picture, index in zip(shown(figure), range(9), strict=True):
        source = [arrays["clean"], arrays["stamped"], after["reformed"]][index // 3]
        assert (picture == source[index % 3].transpose(1, 2, 0)).all()
    assert [text for text in captions(figure) if "→" in text and "true" not in text] == [
        *("0 (plane)\n→ 0 (plane)", "2 (bird)\n→ 2 (bird)", "3 (cat)\n→ 1 (car)"),
        *("0 (plane)\n→ 1 (car) ▲", "2 (bird)\n→ 0 (plane)", "3 (cat)\n→ 1 (car) ▲"),
        *("0 (plane)\n→ 0 (plane)", "2 (bird)\n→ 1 (car) ▲", "3 (cat)\n→ 3 (cat)"),
    ]
    assert "after\nshrinkpad" in captions(figure)
    assert "n = 3 images" in note(figure)


@pytest.mark.parametrize("opacity", [1.0, 0.3])
def test_a_trigger_alone_has_the_pattern_and_the_opacity_it_was_blended_with(opacity: float) -> None:
    pattern = np.random.default_rng(0).random((3, 5, 5))
    mask = np.zeros((1, 5, 5))
    mask[:, 1:3, 1:4] = opacity
    both = np.stack([plain * (1 - mask) + mask * pattern for plain in (np.zeros((3, 5, 5)), np.ones((3, 5, 5)))])
    found, shown = matted(np.rint(255 * both).astype(np.uint8))
    assert found == pytest.approx(np.broadcast_to(mask, found.shape), abs=0.005)
    assert shown[:, 1:3, 1:4] == pytest.approx(pattern[:, 1:3, 1:4], abs=0.02)
    assert not shown[:, 3:].any()


def test_triggers_are_drawn_alone_once_for_each_that_differs() -> None:
    found = [record(attack=BADNETS | {"poison_rate": rate}) for rate in (0.1, 0.2)]
    found.append(record(attack={"name": "blended"}))
    figure = only(drawn("triggers", material(*found, evidence={each.id: pictures() for each in found})))
    assert {"badnets\n2 settings", "blended"} <= set(captions(figure))
    alone = shown(figure)
    assert len(alone) == 2 * 6
    arrays = pictures()
    clean, stamped, change, on_gray, opacity, pattern = alone[::2]
    assert (clean == arrays["clean"][0].transpose(1, 2, 0)).all()
    assert (stamped == arrays["stamped"][0].transpose(1, 2, 0)).all()
    assert (change[:4, :4] == 128).all()
    assert set(np.unique(on_gray)) == {128, 255}
    assert set(np.unique(opacity)) == set(np.unique(pattern)) == {0, 255}


def test_masks_and_patterns_are_drawn_apart_beside_the_planted_ones() -> None:
    each, arrays = inspected()
    figure = only(drawn("recovered", material(each, evidence={each.id: pictures() | arrays})))
    found = shown(figure)
    assert len(found) == 3 * (4 + 1)
    masks, patterns, both = found[:5], found[5:10], found[10:]
    for index in range(4):
        mask, pattern = arrays["masks"][index], arrays["patterns"][index]
        assert masks[index][..., 0] == pytest.approx(255 * mask[0], abs=0.5)
        assert (patterns[index] == pattern.transpose(1, 2, 0)).all()
        assert both[index] == pytest.approx((mask * pattern).transpose(1, 2, 0), abs=0.5)
    assert masks[4][-1, -1, 0] == patterns[4][-1, -1, 0] == both[4][-1, -1, 0] == 255
    heads = ["0 (plane)", "1 (car) ▲", "2 (bird)", "3 (cat)", "planted"]
    assert set(heads) <= set(captions(figure))
    assert f"L1 {arrays['masks'][1].sum():.3g}\nASR 90%" in captions(figure)
    assert "n = 4 classes" in note(figure)


# ---- files


def clustered() -> dict[str, np.ndarray]:
    """Return two classes of three points each, and a picture of each."""
    return {
        "points": np.arange(12.0).reshape(6, 2),
        "point_clusters": np.array([0, 0, 1, 0, 1, -1]),
        "point_translated": np.array([True, True, False] * 2),
        "point_classes": np.array([0, 0, 0, 1, 1, 1]),
        "translated": np.zeros((2, 1, 1, 8, 8), np.uint8),
    }


def tuned() -> list[Record]:
    """Return an eraser at three learning rates."""
    before = TOOK | {"defense.agreement_on_samples": 0.9}
    return [
        record(metrics=before | {"defense.asr": asr, "defense.acc": acc}, seed=2)
        .model_copy(update={"defense": {"name": "dhbe", "lr": lr}, "family": "sanitization"})
        for lr, acc, asr in ((0.01, 0.95, 0.9), (0.05, 0.9, 0.4), (0.1, 0.8, 0.1))
    ]  # fmt: skip


def tuned_ones(records: Sequence[Record]) -> list[Record]:
    return [each for each in records if each.defense is not None and "lr" in each.defense]


def everything() -> tuple[list[Record], Evidence, list[Population]]:
    """Return a store's worth in which every kind finds something."""
    screen, scores = screened(0)
    verdict, masks = inspected()
    verdict.metrics["defense.clusters"] = [2.0, 1.0]
    repaired = record("shrinkpad", TOOK | {"defense.asr": 0.1, "defense.acc": 0.9}, seed=1)
    found = [*rates((0.01, 0, 0.5), (0.05, 0, 0.9), (0.2, 0, 0.99)), screen, verdict, repaired, *tuned()]
    for place, each in enumerate(found[:3]):
        each.metrics["attack.cad"] = 0.001 * place
    settings = [BADNETS | {"trigger_size": size, "transparency": alpha} for size in (3, 6) for alpha in (0.0, 0.8)]
    found += [record("teco", TOOK | {"defense.auroc": 0.8}, attack=attack, seed=3) for attack in settings]
    looked = record(metrics=TOOK | {"analysis.nsr": 0.4}, analysis={"name": "nsr"}, seed=3)
    found.append(looked)
    evidence = {each.id: pictures() for each in found}
    moved = np.array([[2.0, 4.0, 6.0], [1.0, 2.0, 3.0]], np.float32)
    for each in tuned_ones(found):
        evidence[each.id] |= {"attack_logit_differences": moved, "defense_logit_differences": moved / 2}
        evidence[each.id] |= {"samples": pictures()["clean"]}
    evidence[looked.id] |= {
        "points/features/stamped": np.eye(99, 2),
        **{f"pictures/{name}": pictures()[name] for name in ("clean", "stamped")},
    }
    evidence[screen.id] |= scores
    evidence[verdict.id] |= masks | clustered()
    return found, evidence, [judged()]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("store")
    records, evidence, populations = everything()
    kept = Store(root)
    for each in records:
        kept.save_record(each)
        kept.save_artifact("evidence", each.id, evidence[each.id], {})
    for found in populations:
        kept.save_population(found)
    return root


def gifthorse(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    code = "import sys; from gifthorse.cli.main import cli\n"
    code += f"cli.main({['figures', *arguments]!r}, standalone_mode=False)\n"
    code += "print({'torch', 'matplotlib.pyplot'} & set(sys.modules))"
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=os.environ | environment, check=True
    )


MAGIC = {"pdf": b"%PDF-", "svg": b"<?xml ", "png": b"\x89PNG\r\n\x1a\n"}


@pytest.mark.parametrize("form", command.FORMATS)
def test_every_kind_is_drawn_to_the_same_bytes_whenever_it_is_drawn(form: str, store: Path, tmp_path: Path) -> None:
    """Once in a process of its own, with other hashes, in another time zone; once here, in spite of odd settings."""
    said = gifthorse(
        "--store", str(store), "--out", str(tmp_path / "there"), "--format", form, PYTHONHASHSEED="7", TZ="Asia/Tokyo"
    )
    assert said.stdout.endswith("set()\n")
    with matplotlib.rc_context({"font.size": 20, "savefig.dpi": 10, "svg.fonttype": "path", "axes.grid": True}):
        command.write_figures(tmp_path / "here", form, command.KINDS, (), (), store)
    files = {path.name: path.read_bytes() for path in (tmp_path / "here").iterdir()}
    assert {name.partition("-")[0] for name in files} == set(command.KINDS)
    assert files == {path.name: path.read_bytes() for path in (tmp_path / "there").iterdir()}
    assert all(content.startswith(MAGIC[form]) and len(content) > 5000 for content in files.values())
    assert all(re.fullmatch(rf"[A-Za-z0-9._-]+\.{form}", name) for name in files)
    assert said.stdout.splitlines()[:-1] == [str(tmp_path / "there" / name) for name in sorted_as_printed(said.stdout)]
    assert not any(re.search(rb"CreationDate|<dc:date>|20\d\d-\d\d-\d\d", content) for content in files.values())


def sorted_as_printed(text: str) -> list[str]:
    return [Path(line).name for line in text.splitlines()[:-1]]


def test_text_stays_text_and_names_are_no_formulas(tmp_path: Path) -> None:
    each, arrays = inspected(class_names=["$x^2$", "<b>&", "a_b", "\\frac"])
    figure = only(drawn("classes", material(each, evidence={each.id: arrays})))
    with styled():
        text = encode(figure, "svg").decode()
    for said in ("0 ($x^2$)", "1 (&lt;b&gt;&amp;)", "2 (a_b)", "3 (\\frac)", "L1 norm of the recovered mask"):
        assert f">{said}</text>" in text


def test_the_command_line_offers_the_kinds_and_formats_that_there_are() -> None:
    assert tuple(KINDS) == command.KINDS
    assert set(UNDATED) == set(command.FORMATS)
    said = str(command.figures.help)
    assert all(re.search(rf"^ +{kind} ", said, re.MULTILINE) for kind in KINDS)


def call(
    store: Path, out: Path, *, kinds: tuple[str, ...] = (), where: tuple[str, ...] = (), metrics: Any = ()
) -> None:
    command.write_figures(out, "svg", kinds or command.KINDS, where, metrics, store)


def test_what_cannot_be_drawn_is_said_in_a_line(store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    empty = tmp_path / "empty"
    with pytest.raises(RequestError, match="there is no store at"):
        call(empty, tmp_path)
    empty.mkdir()
    with pytest.raises(RequestError, match="holds no records"):
        call(empty, tmp_path)
    with pytest.raises(RequestError, match="no record has attack=bad; there is: badnets"):
        call(store, tmp_path, where=("attack=bad",))
    with pytest.raises(
        RequestError, match="nothing to draw: roc needs records of an attack and of a defense that scores"
    ):
        call(store, tmp_path, kinds=("roc",), where=("defense=shrinkpad",))
    with pytest.raises(RequestError, match=r"there is no metric 'defense\.asd'"):
        call(store, tmp_path, metrics=("defense.asd",))
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot write"):
        call(store, tmp_path / "file", kinds=("matrix",))
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(RequestError, match=re.escape("figures need matplotlib: pip install 'gifthorse[plots]'")):
        call(store, tmp_path)
    assert not list(tmp_path.glob("*.svg"))


def test_only_what_is_asked_for_is_drawn(store: Path, tmp_path: Path) -> None:
    call(store, tmp_path, kinds=("stamped", "matrix"), where=("seed=1",), metrics=("defense.acc",))
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "matrix-digits-small_cnn-acc.svg",
        "stamped-digits-small_cnn-badnets_poison_rate_0.1-seed1.svg",
    ]


@pytest.mark.parametrize(
    ("conditions", "count"),
    [
        ((), 3),
        (("attack=badnets",), 2),
        (("attack=none", "attack=badnets"), 3),
        (("attack.poison_rate=0.1",), 1),
        (("attack.poison_rate=1e-1",), 1),
        (("attack=badnets", "attack.poison_rate=0.2", "seed=0"), 1),
        (("defense=none",), 2),
        (("defense=strip", "status=done"), 1),
        (("family=filtering", "attack=badnets"), 1),
    ],
)
def test_conditions_on_a_field_are_alternatives_and_fields_add_up(conditions: tuple[str, ...], count: int) -> None:
    found = [
        record(attack={"name": "none"}),
        record(attack=BADNETS | {"poison_rate": 0.2}),
        record("strip"),
    ]
    assert len(select(found, read(conditions))) == count


@pytest.mark.parametrize("condition", ["attack", "attack=", "=x", "atack=badnets", "attack=wanet", "seed=true"])
def test_a_condition_that_means_nothing_is_refused(condition: str) -> None:
    with pytest.raises(RequestError):
        select([record()], read([condition]))


def test_populations_are_chosen_by_the_same_conditions() -> None:
    assert select([record(), found := judged()], read(["family=inspection"])) == [found]
    assert len(select([record(), judged()], read(["dataset=digits", "profile=smoke"]))) == 2


# ---- charts within a page


def rectangles(svg: str) -> list[tuple[float, str]]:
    return [(float(height), title) for height, title in re.findall(r'height="([\d.]+)"[^>]*><title>([^<]*)<', svg)]


def test_the_page_has_the_same_bars_as_the_figure_small_and_without_ids() -> None:
    values = [30.0, 12.0, 3.0, 45.0]
    svg = inline.bar_chart(values, "norm & <more>", 2, [2], NAMES)
    found = {title: height for height, title in rectangles(svg)}
    assert list(found) == [
        "class 0 (plane): 30.00",
        "class 1 (car): 12.00",
        "class 3 (cat): 45.00",
        "class 2 (bird): 3.00",
    ]
    scale = found["class 3 (cat): 45.00"] / 45
    for title, height in found.items():
        assert height == pytest.approx(float(title.rpartition(" ")[2]) * scale, abs=0.11)
    assert 'role="img" aria-label="norm &amp; &lt;more&gt; of 4 classes; median 21.0, smallest 3.0 (class 2)"' in svg
    assert ">norm &amp; &lt;more&gt;</text>" in svg
    assert " id=" not in svg
    assert len(svg) < 6000
    assert svg == inline.bar_chart(values, "norm & <more>", 2, [2], NAMES)


def test_one_chart_leaves_nothing_behind_in_the_next() -> None:
    fresh = inline.bar_chart([1.0, 2.0], "norm")
    inline.bar_chart([30.0] * 50, "other", 2, [2, 3], ["x"] * 50)
    assert inline.bar_chart([1.0, 2.0], "norm") == fresh
    random = np.random.default_rng(0)
    inline.histograms([inline.Histogram("clean", "clean", random.random(9))], 0.5, "score")
    assert inline.bar_chart([1.0, 2.0], "norm") == fresh
    groups = [inline.Histogram(style, style, random.random(50)) for style in ("clean", "stamped")]
    first = inline.histograms(groups, 0.5, "score")
    inline.histograms([inline.Histogram("clean", "clean", 100 * random.random(9))] * 2, float("nan"), "what")
    assert inline.histograms(groups, 0.5, "score") == first
    assert len(first) < 6000


def test_a_roc_curve_in_a_page_goes_where_its_rates_are() -> None:
    svg = inline.roc_curve([0.0, 1.0, 2.0, 3.0], [2.5, 4.0], "ROC <1>", (0.25, 1.0))
    (path,) = re.findall(r'<path d="([ML\d. ]+)" fill="none" stroke="var\(--clean', svg)
    points = np.array(
        [[float(number) for number in pair.split()] for pair in re.findall(r"[ML ]?([\d.]+ [\d.]+)", path)]
    )
    box = points[0][0], points[-1][0], points[0][1], points[-1][1]
    x, y = (points[:, 0] - box[0]) / (box[1] - box[0]), (points[:, 1] - box[2]) / (box[3] - box[2])
    assert np.stack([x, y], 1) == pytest.approx(np.array([[0, 0], [0, 0.5], [0.25, 0.5], [0.25, 1], [1, 1]]), abs=0.005)
    assert 'aria-label="ROC &lt;1&gt;"' in svg


def test_without_matplotlib_the_report_is_written_and_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    each, arrays = inspected()
    screen, scores = screened(0)
    html = render([ReportCell(each, lambda: arrays), ReportCell(screen, lambda: scores)])
    assert html.count("Charts need matplotlib: pip install &#39;gifthorse[plots]&#39;") == 2
    assert "<svg" not in html
    assert "L1 norm of the recovered mask per class" in html
    assert inline.can_draw() is False


def test_a_report_without_charts_imports_no_matplotlib() -> None:
    code = "import sys, gifthorse.report.html, gifthorse.cli.figures; print('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"
