"""Maps of features and translated images, in pages and as figures: of the classes that count, and how many they are."""

import re
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure

from gifthorse.core.record import Record
from gifthorse.report import clusters, details
from gifthorse.report.cells import ReportCell
from gifthorse.report.drawings import drawings
from gifthorse.report.drawings.material import Material
from gifthorse.report.evidence import class_values
from gifthorse.report.html import render
from gifthorse.report.pictures import Pictures
from gifthorse.report.style import styled
from records import ATTACK, bare

CLASSES = 3


def inspected(**metrics: Any) -> Record:
    found = {"defense.index": 3.0, "defense.clusters": [2.0, 3.0, 2.0], "defense.separations": [0.2, 0.7, 0.3]}
    found |= {"defense.scores": [2.0, 3.0, 2.0], "defense.suspect_class": 1, "attack.targets": [1.0]}
    return bare(defense={"name": "aegis"}, family="inspection", metrics=ATTACK | found | metrics)


def evidence(translated: int = 6, real: int = 4) -> dict[str, np.ndarray]:
    """Three classes of ten points each; class 1 has three clusters, the others two, and class 2 a point of noise."""
    random, each = np.random.default_rng(0), translated + real
    groups = np.array([[0] * translated + [1] * real] * CLASSES)
    groups[1, :2] = 2
    groups[2, -1] = -1
    return {
        "points": random.normal(size=(CLASSES * each, 2)),
        "point_clusters": groups.ravel(),
        "point_translated": np.tile([True] * translated + [False] * real, CLASSES),
        "point_classes": np.repeat(np.arange(CLASSES), each),
        "translated": random.integers(0, 256, (CLASSES, 5, 1, 8, 8), dtype=np.uint8),
    }


def drawn(kind: str, record: Record, arrays: dict[str, np.ndarray]) -> list[Figure]:
    material = Material([record], (), {record.id}, lambda _: arrays)
    with styled():
        found = [each.draw() for each in drawings(material, [kind])]
    return [figure for figure in found if figure is not None]


def test_a_map_is_of_one_class_and_counts_its_clusters_without_noise() -> None:
    maps = clusters.cluster_maps(evidence())
    assert [each.count for each in maps.values()] == [2, 3, 2]
    assert [len(each.points) for each in maps.values()] == [10] * 3
    assert (maps[1].pictures == evidence()["translated"][1]).all()
    assert clusters.cluster_maps({"points": np.zeros((3, 2))}) == {}
    broken = evidence() | {"points": np.full((30, 2), np.nan)}
    assert clusters.cluster_maps(broken) == {}


def test_every_point_is_a_dot_within_the_map_and_some_show_their_picture() -> None:
    each = clusters.cluster_maps(evidence())[2]
    svg = str(clusters.to_svg(each, "what <it> shows", with_pictures=True))
    places = [tuple(map(int, place)) for place in re.findall(r"M(\d+) (\d+)h0", svg)]
    assert len(places) == 10
    assert all(0 <= value <= clusters.SIDE for place in places for value in place)
    assert 'class="real noise"' in svg
    assert svg.count('class="seen"') == svg.count("data:image/webp") == 5
    assert "what &lt;it&gt; shows" in svg
    assert "data:" not in clusters.to_svg(each, "", with_pictures=False)


def test_points_on_each_other_are_drawn() -> None:
    each = clusters.cluster_maps(evidence() | {"points": np.zeros((30, 2))})[0]
    assert "M8 8h0" in clusters.to_svg(each, "", with_pictures=False)


def test_a_figure_has_a_map_for_every_class_with_its_count() -> None:
    (figure,) = drawn("clusters", inspected(), evidence())
    titles = [axes.get_title() for axes in figure.axes]
    assert titles == ["0 (2)", "1 ▲ (3)", "2 (2)", "", ""]
    dots = [sum(len(np.asarray(line.get_xdata())) for line in axes.lines) for axes in figure.axes]
    assert dots == [10, 10, 10, 0, 0]
    assert figure.axes[1].title.get_fontweight() == "bold"
    assert "n = 10 images at most of a class" in " ".join(
        figure.get_supxlabel().replace("\N{NO-BREAK SPACE}", " ").split()
    )
    assert not drawn("clusters", inspected(), {})
    assert not drawn("clusters", bare(defense={"name": "nc"}, family="inspection", metrics=ATTACK), evidence())


def test_a_figure_has_a_row_of_translated_images_for_every_class() -> None:
    (figure,) = drawn("translated", inspected(), evidence())
    assert len(figure.axes[0].images) == CLASSES * 5
    words = [text.get_text() for text in figure.axes[0].texts]
    assert {"0", "1 ▲", "2"} <= set(words)
    assert not drawn("translated", inspected(), {})


def detail(record: Record, arrays: dict[str, np.ndarray], extent: details.Extent) -> details.CellDetail:
    cell = ReportCell(record, lambda: arrays)
    (trojan,) = details.trojans([cell], details.Lines([record]), Pictures(), extent)
    return trojan.cells[0]


@pytest.mark.parametrize(("extent", "maps", "rows"), [(details.FULL, 3, 3), (details.BRIEF, 1, 1)])
def test_a_page_shows_the_suspects_map_first_and_what_images_become(extent: Any, maps: int, rows: int) -> None:
    found = detail(inspected(), evidence(), extent)
    captions = [chart.caption for chart in found.charts if "clusters of" in chart.caption]
    assert len(captions) == maps
    assert captions[0].startswith("Class 1 ▲: 3 clusters of 6 translated images")
    assert [row.marked for row in found.rows] == ([False, True, False] if rows == 3 else [True])
    assert found.rows[rows // 2].caption == "Translated to class 1"


def test_a_page_charts_clusters_and_separations_by_class() -> None:
    page = render([ReportCell(inspected(), evidence)], [])
    assert "Clusters per class; dashed: the median." in page
    assert "Separation of translated images from real ones per class" in page
    assert "defense.clusters" not in page


def test_a_detector_that_says_what_its_scores_are_of_is_charted_by_that() -> None:
    record = inspected(**{"defense.trigger_norms": [3.0, 1.0, 4.0]})
    record.metrics.pop("defense.clusters")
    assert class_values(record, {}) == ("mean norm of reversed triggers", [3.0, 1.0, 4.0])
