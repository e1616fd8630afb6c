"""What analyses left is drawn whole, on a card of the report and as files; what is of no known kind is passed over."""

import base64
import io
import re
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.patches import StepPatch
from PIL import Image

from gifthorse.core.analysis import Findings
from gifthorse.core.findings import DRAWN
from gifthorse.core.record import Record
from gifthorse.report import details, figures
from gifthorse.report.cells import ReportCell
from gifthorse.report.drawings import drawings
from gifthorse.report.drawings.material import Material
from gifthorse.report.findings import findings
from gifthorse.report.html import render
from gifthorse.report.pictures import Pictures
from gifthorse.report.style import SET_OFF, STAMPED, series_of, styled
from records import bare, record

NAMES = ["plane", "car", "bird", "cat"]
Arrays = dict[str, np.ndarray]


def looked(**changes: Any) -> Record:
    return record(**{"analysis": {"name": "nsr"}, "class_names": NAMES, "metrics": {"analysis.nsr": 0.4}} | changes)


def evidence(points: int = 30, stages: int = 5, classes: int = 4) -> Arrays:
    """Return something of every kind."""
    random = np.random.default_rng(0)
    found: Arrays = {
        "pictures/Maps of the model, class 2": random.integers(0, 256, (9, 3, 8, 8), np.uint8),
        "pictures/Maps of the model, class 10": random.integers(0, 256, (2, 1, 8, 8), np.uint8),
        "matrix/Overlap of <units>": random.random((classes, classes)),
        "clean_scores": random.random(3),
    }
    for place, group in enumerate(("class 0", "class 1", "stamped")):
        found[f"points/Latents (t-SNE)/{group}"] = random.normal(place, 1, (points, 2))
    for group in ("active in stamped images alone", "active in clean images alone"):
        found[f"against/Units/clean images/stamped images/{group}"] = random.random((2, points))
    for series in ("same class", "stamped"):
        found[f"profile/Correlation of routes/{series}"] = random.random(stages)
    for group in ("clean images", "stamped images", "others"):
        found[f"distribution/Pseudo-linearity/{group}"] = random.normal(size=50)
    return found


def card(arrays: Arrays, extent: details.Extent = details.FULL, **changes: Any) -> details.CellDetail:
    each = looked(**changes)
    (trojan,) = details.trojans([ReportCell(each, lambda: arrays)], details.Lines([each]), Pictures(), extent)
    return trojan.cells[0]


def drawn(arrays: Arrays, each: Record) -> dict[str, Figure]:
    material = Material([each], (), {each.id}, lambda _: arrays)
    with styled():
        found = {drawing.name: drawing.draw() for drawing in drawings(material, ["analyses"])}
    return {name: figure for name, figure in found.items() if figure is not None}


def places(path: str) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in re.findall(r"M([\d.]+) ([\d.]+)", path)]


# ---- reading


def test_the_kinds_are_those_that_analyses_are_told_of() -> None:
    assert all(f"``{kind}/" in str(Findings.__doc__) for kind in DRAWN)


def test_groups_of_a_title_are_one_chart_in_natural_order() -> None:
    found = findings(evidence())
    assert [(each.kind, each.title, list(each.groups)) for each in found] == [
        ("pictures", "Maps of the model, class 2", [""]),
        ("pictures", "Maps of the model, class 10", [""]),
        ("points", "Latents (t-SNE)", ["class 0", "class 1", "stamped"]),
        ("against", "Units", ["active in clean images alone", "active in stamped images alone"]),
        ("profile", "Correlation of routes", ["same class", "stamped"]),
        ("distribution", "Pseudo-linearity", ["clean images", "others", "stamped images"]),
        ("matrix", "Overlap of <units>", [""]),
    ]
    assert found[3].axes == ("clean images", "stamped images")
    assert found[3].groups["active in clean images alone"].shape == (30, 2)


def test_images_stand_right_above_what_was_made_of_them() -> None:
    """As saliency and the gallery name their rows; a file of arrays keeps no order."""
    rows = [
        "clean images",
        "model, clean images, class 2",
        "model, clean images, class 10",
        "twin, clean images, class 2",
        "others",
        "stamped images",
        "model, stamped images, class 2",
        "twin, stamped images, class 2",
        "stamped images, transformed",
        "model, stamped images, transformed, class 2",
        "target 1",
        "target 1, alone",
        "target 2",
        "target 10",
        "target 10, alone",
    ]
    for given in (rows, rows[::-1]):
        found = findings({f"pictures/{each}": np.zeros((1, 1, 4, 4), np.uint8) for each in given})
        assert [each.title for each in found] == rows
    named = findings({f"profile/{title}/series": np.zeros(2) for title in ("b", "a, b")})
    assert [each.title for each in named] == ["a, b", "b"]


@pytest.mark.parametrize(
    ("name", "array"),
    [
        ("hologram/title/group", np.zeros((3, 2))),
        ("points/title", np.zeros((3, 2))),
        ("points/title/group/more", np.zeros((3, 2))),
        ("points//group", np.zeros((3, 2))),
        ("points/title/group", np.zeros((3, 3))),
        ("points/title/group", np.zeros((0, 2))),
        ("points/title/group", np.full((3, 2), np.nan)),
        ("points/title/group", np.array([["a", "b"]])),
        ("against/title/x/y/group", np.zeros((3, 2))),
        ("against/title/group", np.zeros((2, 3))),
        ("profile/title/series", np.zeros((2, 3))),
        ("profile/title/series", np.array([])),
        ("profile/title/series", np.array([np.inf, np.nan])),
        ("distribution/title/group", np.array(1.0)),
        ("matrix/title", np.zeros((2, 3))),
        ("matrix/title", np.zeros((0, 0))),
        ("matrix/title", np.zeros((2, 2), complex)),
        ("pictures/caption", np.zeros((2, 1, 4, 4))),
        ("pictures/caption", np.zeros((0, 1, 4, 4), np.uint8)),
        ("pictures/caption", np.zeros((4, 4), np.uint8)),
        ("", np.zeros(3)),
        ("trigger", np.zeros((2, 1, 4, 4), np.uint8)),
    ],
    ids=lambda value: value if isinstance(value, str) else f"{value.dtype}{value.shape}",
)
def test_what_is_of_no_known_kind_or_shape_is_passed_over(name: str, array: np.ndarray) -> None:
    assert findings({name: array}) == []
    found = findings({name: array} | evidence())
    assert len(found) == len(findings(evidence()))
    assert card({name: array}).charts == ()


def test_what_is_no_number_is_left_out_of_what_has_some() -> None:
    points = np.array([[0.0, 1.0], [np.nan, 1.0], [2.0, np.inf], [3.0, 4.0]])
    values = np.array([1.0, np.nan, 3.0, np.inf])
    matrix = np.array([[1.0, np.nan], [0.5, 0.0]])
    arrays = {"points/p/a": points, "profile/q/a": values, "distribution/r/a": values, "matrix/s": matrix}
    assert findings({"points/p/a": points})[0].groups["a"].tolist() == [[0.0, 1.0], [3.0, 4.0]]
    assert len(card(arrays).charts) == 4
    found = drawn(arrays, looked())
    (line,) = (axes.lines[-1] for name, figure in found.items() for axes in figure.axes if name.endswith("q"))
    assert np.isfinite(np.asarray(line.get_ydata(), float)).tolist() == [True, False, True, False]


# ---- on the card


def test_a_card_shows_all_that_an_analysis_left() -> None:
    found = card(evidence())
    assert [row.caption for row in found.rows] == ["Maps of the model, class 2", "Maps of the model, class 10"]
    captions = [str(chart.caption) for chart in found.charts]
    assert [re.split("[:;]", caption)[0] for caption in captions] == [
        "Latents (t-SNE)",
        "Units",
        "Correlation of routes",
        "Pseudo-linearity",
        "Overlap of &lt",
    ]
    assert all(
        each in captions[0]
        for each in ("class 0 (30)", "class 1 (30)", f'color:var(--stamped,{STAMPED})">✖</span> stamped (30)')
    )
    assert "dotted: both alike" in captions[1]
    assert [chart.narrow for chart in found.charts] == [True, True, False, False, True]
    page = render([ReportCell(looked(), lambda: evidence())])
    assert page.count("<svg") == 5
    assert "<units>" not in page


def test_every_point_of_a_group_is_in_the_page_where_it_is_and_with_its_mark() -> None:
    square = np.array([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
    (chart,) = card({"points/map/one": square, "points/map/two": square + 1}).charts
    one, two = (places(path) for path in re.findall(r'<path d="([^"]+)" stroke="[^"]+" stroke-width', str(chart.svg)))
    assert len(one) == len(two) == 4
    side = one[2][0] - one[0][0]
    found = np.array([(x - one[0][0], one[0][1] - y) for x, y in [*one, *two]])
    assert found == pytest.approx(side * np.concatenate([square, square + 1]), abs=0.2)
    assert 'stroke-linecap="round"' in str(chart.svg)
    assert 'stroke-linecap="square"' in str(chart.svg)


def test_many_points_are_thinned_evenly_and_the_caption_says_so() -> None:
    arrays = {"points/map/one": np.stack([np.arange(5000.0), np.zeros(5000)], 1), "points/map/two": np.ones((3, 2))}
    (chart,) = card(arrays).charts
    assert "one (500 of 5000)" in str(chart.caption)
    assert "two (3)" in str(chart.caption)
    (path, _) = re.findall(r'<path d="([^"]+)" stroke="[^"]+" stroke-width', str(chart.svg))
    across = [x for x, _ in places(path)]
    assert len(across) == 500
    assert np.diff(across) == pytest.approx(np.full(499, (across[-1] - across[0]) / 499), abs=0.2)
    assert len(str(chart.svg)) < 9000
    (brief,) = card(arrays, details.BRIEF).charts
    assert "one (100 of 5000)" in str(brief.caption)


def test_a_matrix_of_many_classes_is_small_and_of_few_has_its_numbers() -> None:
    values = np.array([[0.25, 1.0], [0.5, 0.0]])
    (few,) = card({"matrix/overlap": values}).charts
    assert {f">{text}</text>" for text in ("0.25", "1", "0.5", "0", "0 (plane)", "1 (car)")} <= {
        f"{found}</text>" for found in re.findall(r">[^<]*(?=</text>)", str(few.svg))
    }
    (many,) = card({"matrix/overlap": np.random.default_rng(0).random((100, 100))}).charts
    assert len(str(many.svg)) < 60_000
    assert str(many.svg).count("<text") < 60


def test_the_first_row_of_a_matrix_is_on_top_in_the_page() -> None:
    values = np.arange(9.0).reshape(3, 3)
    (chart,) = card({"matrix/overlap": values}).charts
    uri = re.findall(r'href="data:image/webp;base64,([^"]+)"', str(chart.svg))[0]
    shades = np.asarray(Image.open(io.BytesIO(base64.b64decode(uri))).convert("RGB"), float)
    assert shades.shape == (3, 3, 3)
    # Cividis is the lighter the larger.
    assert (np.diff(shades.sum(2).ravel()) > 0).all()


def test_without_matplotlib_what_was_found_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(figures, "can_draw", lambda: False)
    found = card(evidence())
    assert len(found.charts) == 5
    assert "Charts need matplotlib" in str(found.charts[0].svg)
    assert found.charts[0].caption == "Latents (t-SNE)"


def test_no_two_groups_look_alike_and_stamped_ones_are_set_off() -> None:
    names = [f"class {index}" for index in range(20)]
    found = series_of([*names, "stamped"], ["stamped"])
    assert len({(each.color, each.marker) for each in found.values()}) == 21
    assert found["stamped"] == SET_OFF
    assert all(found[name].color != SET_OFF.color for name in names)


# ---- as files


def test_a_file_for_the_pictures_and_for_each_title_with_its_n() -> None:
    found = drawn(evidence(), looked())
    prefix = "analyses-digits-small_cnn-badnets-nsr-seed0-"
    assert [name.removeprefix(prefix) for name in found] == [
        "pictures",
        "Latents_t_SNE",
        "Units",
        "Correlation_of_routes",
        "Pseudo_linearity",
        "Overlap_of_units",
    ]
    notes = [figure.get_supxlabel() for figure in found.values() if figure.get_supxlabel()]
    counts = ["n = 90 points", "n = 60 points", "n = 5 layers", "n = 50 images", "n = 4 classes"]
    for note, count in zip(notes, counts, strict=True):
        assert count in " ".join(note.replace("\N{NO-BREAK SPACE}", " ").split())
    pictures = found[f"{prefix}pictures"].axes[0]
    assert len(pictures.images) == 8 + 2
    assert any("n = 2 to 8 images in a row" in " ".join(text.get_text().replace("\N{NO-BREAK SPACE}", " ").split())
               for text in pictures.texts)  # fmt: skip


def test_a_profile_is_of_layers_which_its_axis_names_where_the_analysis_does() -> None:
    layers = ["stage1", "stage2", "penultimate"]
    arrays = {f"profile/routes/{','.join(layers)}/{series}": np.arange(3.0) for series in ("model", "twin")}
    (found,) = findings(arrays)
    assert (found.title, list(found.groups), found.axes) == ("routes", ["model", "twin"], (",".join(layers),))

    def axis(arrays: Arrays) -> tuple[str, list[str]]:
        (figure,) = drawn(arrays, looked()).values()
        (axes,) = figure.axes
        return axes.get_xlabel(), axes.xaxis.get_major_formatter().format_ticks(list(axes.xaxis.get_majorticklocs()))

    assert axis(arrays) == ("layer, first to last", layers)
    assert axis({"profile/routes/model": np.arange(3.0)}) == ("layer, first to last", ["1", "2", "3"])
    assert axis({"profile/routes/one,two/model": np.arange(3.0)})[1] == ["1", "2", "3"]
    (chart,) = card(arrays).charts
    assert all(f">{layer}</text>" in str(chart.svg) for layer in layers)


@pytest.mark.parametrize(
    "layers",
    [["stage1", "stage2", "stage3", "penultimate"], [f"layer{number}.0.conv1" for number in range(40)]],
    ids=["few", "many"],
)
def test_names_of_layers_leave_each_other_room(layers: list[str]) -> None:
    (figure,) = drawn({f"profile/routes/{','.join(layers)}/model": np.arange(float(len(layers)))}, looked()).values()
    with styled():
        figure.draw_without_rendering()
    shown = [text.get_window_extent() for text in figure.axes[0].get_xticklabels()]
    assert 3 <= len(shown) <= 4
    assert all(one.x1 < other.x0 for one, other in pairwise(shown))
    assert figure.axes[0].get_xticklabels()[0].get_text() == layers[0]


def test_files_hold_every_group_whole() -> None:
    arrays = evidence(points=700)
    found = {name.rpartition("seed0-")[2]: figure for name, figure in drawn(arrays, looked()).items()}
    for title, start in (("Latents_t_SNE", "points/"), ("Units", "against/")):
        (axes,) = found[title].axes
        dots = {line.get_label(): np.asarray(line.get_xydata()) for line in axes.lines if line.get_marker() != "None"}
        for name, array in arrays.items():
            if name.startswith(start):
                points = array if start == "points/" else array.T
                assert dots[f"{name.rpartition('/')[2]} (700)"] == pytest.approx(points)
    (axes,) = found["Units"].axes
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("clean images", "stamped images")
    assert axes.get_xlim() == axes.get_ylim()
    (axes,) = found["Correlation_of_routes"].axes
    for line in axes.lines:
        assert np.asarray(line.get_ydata()) == pytest.approx(
            arrays[f"profile/Correlation of routes/{line.get_label()}"]
        )
    panels = found["Pseudo_linearity"].axes
    assert len({axes.get_xlim() for axes in panels}) == 1
    for axes, group in zip(panels, ("clean images", "others", "stamped images"), strict=True):
        (steps,) = [patch for patch in axes.patches if isinstance(patch, StepPatch)]
        shares, edges, _ = steps.get_data()
        values = arrays[f"distribution/Pseudo-linearity/{group}"]
        assert shares == pytest.approx(100 * np.histogram(values, edges)[0] / 50)
        assert group in axes.texts[0].get_text()
    axes = found["Overlap_of_units"].axes[0]
    written = {text.get_position(): float(text.get_text()) for text in axes.texts}
    for row, column in np.ndindex(4, 4):
        assert written[column, row] == pytest.approx(arrays["matrix/Overlap of <units>"][row, column], rel=0.05)


def test_all_of_a_legend_is_in_the_figure() -> None:
    arrays = {f"points/features/class {index}": np.random.default_rng(index).random((5, 2)) for index in range(12)}
    arrays |= {f"profile/routes/class {index}": np.arange(3.0) for index in range(12)}
    for figure in drawn(arrays, looked()).values():
        with styled():
            figure.draw_without_rendering()
        (legend,) = figure.legends
        box, whole = legend.get_window_extent(), figure.bbox
        assert whole.x0 <= box.x0 < box.x1 <= whole.x1
        assert whole.y0 <= box.y0 < box.y1 <= whole.y1


def test_an_analysis_after_a_defense_says_so_and_is_no_hole_of_a_matrix() -> None:
    followed = looked(defense={"name": "fine_pruning"}, status="done")
    assert all("-badnets-fine_pruning-nsr-" in name for name in drawn(evidence(), followed))
    failed = bare(defense={"name": "fine_pruning"}, analysis={"name": "nsr"}, status="failed", reason="boom")
    judged = record(defense={"name": "fine_pruning"}, metrics={"defense.asr": 0.1})
    material = Material([judged, failed], (), {judged.id, failed.id}, lambda _: {})
    with styled():
        (figure,) = [each.draw() for each in drawings(material, ["matrix"])]
    assert figure is not None
    assert [text.get_text() for text in figure.axes[0].texts] == ["10.0"]


def test_what_has_no_analysis_or_did_not_finish_is_not_drawn() -> None:
    assert drawn(evidence(), record()) == {}
    assert drawn(evidence(), looked(status="failed", reason="boom")) == {}
    assert drawn({}, looked()) == {}
