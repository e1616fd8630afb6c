"""A report in a real browser: quiet, self-contained, legible at any width, its numbers those of the records."""

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service

from gifthorse.core.record import Record
from gifthorse.report.cells import ReportCell
from gifthorse.report.html import render

CLASSES, SIDE = 10, 16
FRACTIONS = {"defense.auroc", "defense.f1", "defense.mjs"}
FLAGS = {"attack.valid", "defense.flagged", "defense.hit"}
NUMBERS = {"defense.index", "defense.aiv_log", "defense.aiv_ratio", "defense.mln"}


FAMILY_OF = {
    "shrinkpad": "reformation",
    "strip": "filtering",
    "fine_pruning": "sanitization",
    "neural_cleanse": "inspection",
}


def make_record(identity: str, attack: dict[str, Any], defense: dict[str, Any] | None, **changes: Any) -> Record:
    values: dict[str, Any] = {
        "id": identity,
        "status": "done",
        "dataset": {"name": "digits", "size": SIDE},
        "model": {"name": "small_cnn", "width": 16},
        "training": {"name": "standard", "epochs": 20},
        "profile": "smoke",
        "seed": 0,
        "attack": attack,
        "defense": defense,
        "seconds": {"benign": 3.1, "attack": 2.2, "defense": 0.4, "defense_per_input": 0.002},
        "environment": {
            "gifthorse": "0.1.0",
            "commit": "0123456789abcdef",
            "dirty": False,
            "python": "3.11",
            "torch": "2.6",
            "device": "cpu",
            "threads": 2,
        },
        "created": "2026-01-01T00:00:00.000+00:00",
    }
    return Record.model_validate(values | {"family": defense and FAMILY_OF[defense["name"]]} | changes)


def make_cells() -> list[ReportCell]:
    """Return every kind of outcome: four families, two seeds, benign, a weak attack, a skip, a failure, a gap."""
    random = np.random.default_rng(0)
    pictures = {name: random.integers(0, 256, (8, 1, SIDE, SIDE), np.uint8) for name in ("clean", "stamped")}
    badnets = {"name": "badnets", "target": 3, "poison_rate": 0.1, "mixing": "batch"}
    weak = badnets | {"poison_rate": 0.001}
    took = {"attack.acc": 0.9775, "attack.cad": 0.0123, "attack.asr": 0.9987, "attack.tmc": 0.95, "attack.ccc": 0.9}
    took |= {"benign.acc": 0.99, "benign.asr": 0.004, "attack.valid": True}
    missed = took | {"attack.asr": 0.31, "attack.valid": False}

    made: list[ReportCell] = []

    def cell(attack: dict[str, Any], defense: dict[str, Any] | None, **changes: Any) -> None:
        evidence = changes.pop("evidence", {})
        record = make_record(f"cell{len(made)}", attack, defense, **changes)
        made.append(ReportCell(record, pictures | evidence))

    for seed in (0, 1):
        change = 0.01 * seed
        screened = {
            "defense.tpr": 0.9 + change,
            "defense.fpr": 0.05,
            "defense.auroc": 0.981 - change,
            "defense.f1": 0.93,
        }
        scores = {
            "clean_scores": -random.random(200, np.float32),
            "stamped_scores": -0.2 * random.random(200, np.float32),
            "threshold": np.array([-0.15]),
        }
        cell(badnets, {"name": "strip", "overlays": 64}, seed=seed, metrics=took | screened, evidence=scores)
        masks = random.random((CLASSES, 1, SIDE, SIDE), np.float32)
        masks[3] *= 0.1
        verdict = {"defense.index": 3.2 + seed, "defense.aiv_log": 4.0, "defense.aiv_ratio": 5.0, "defense.mln": 12.5}
        verdict |= {"defense.flagged": True, "defense.suspect_class": 3, "defense.hit": True, "defense.mjs": 0.5}
        triggers = {"masks": masks, "patterns": random.integers(0, 256, masks.shape, np.uint8)}
        scored = {"defense.scores": [-float(mask.sum()) for mask in masks]}
        cell(
            badnets,
            {"name": "neural_cleanse", "steps": 9},
            seed=seed,
            metrics=took | verdict | scored,
            evidence=triggers,
        )
    repaired = {"defense.acc": 0.95, "defense.cad": -0.0004, "defense.asr": 0.125, "defense.ard": 0.8737}
    reformed = {"reformed": pictures["stamped"]}
    for attack, metrics in ((badnets, took), (weak, missed)):
        cell(attack, {"name": "shrinkpad", "shrink": 2}, metrics=metrics | repaired, evidence=reformed)
    offline = {"seconds": {"benign": 3.1, "attack": 2.2, "defense": 12.0}}
    cell(badnets, {"name": "fine_pruning", "epochs": 3}, metrics=took | repaired, **offline)
    cell({"name": "none"}, {"name": "strip", "overlays": 64}, metrics={"attack.acc": 0.99, "defense.fpr": 0.04})
    cell(badnets, {"name": "strip", "overlays": 900}, status="skipped", reason="needs 920 clean images", metrics=took)
    endless = "RuntimeError: " + "out of memory, " * 30 + "x" * 300
    cell(weak, {"name": "neural_cleanse", "steps": 9}, status="failed", reason=endless)
    return made


def required(*names: str) -> str:
    """Return the first of these programs; without any the test is skipped, but on a build server it fails."""
    found = next((path for name in names if (path := shutil.which(name))), None)
    if found is None:
        reason = f"needs {' or '.join(names)}"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    return found


@pytest.fixture(scope="module")
def cells() -> list[ReportCell]:
    return make_cells()


@pytest.fixture(scope="module")
def report(cells: list[ReportCell], tmp_path_factory: pytest.TempPathFactory) -> str:
    path: Path = tmp_path_factory.mktemp("report") / "report.html"
    path.write_text(render(cells))
    return path.as_uri()


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    options = webdriver.ChromeOptions()
    options.binary_location = required("chromium", "chromium-browser", "google-chrome")
    service = Service(required("chromedriver"))
    profile = tmp_path_factory.mktemp("chromium")
    for flag in ("headless", "no-sandbox", "disable-gpu", "disable-background-networking", f"user-data-dir={profile}"):
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=service)
    yield driver
    driver.quit()


@pytest.fixture
def opened(browser: webdriver.Chrome, report: str) -> webdriver.Chrome:
    """Load the report with everything unfolded; the logs hold this load alone."""
    for kind in ("browser", "performance"):
        browser.get_log(kind)  # type: ignore[no-untyped-call]
    browser.get(report)
    browser.execute_script("document.querySelectorAll('details').forEach(each => { each.open = true })")
    return browser


def test_the_console_stays_silent(opened: webdriver.Chrome) -> None:
    assert opened.get_log("browser") == []  # type: ignore[no-untyped-call]


def test_nothing_but_the_file_is_requested(opened: webdriver.Chrome, report: str) -> None:
    events = [json.loads(entry["message"])["message"] for entry in opened.get_log("performance")]  # type: ignore[no-untyped-call]
    urls = [event["params"]["request"]["url"] for event in events if event["method"] == "Network.requestWillBeSent"]
    assert report in urls
    assert [url for url in urls if url != report and not url.startswith("data:")] == []


def test_every_number_shown_is_the_records(opened: webdriver.Chrome, cells: list[ReportCell]) -> None:
    records = {cell.record.id: cell.record for cell in cells}
    shown = opened.execute_script(
        "return [...document.querySelectorAll('table [data-metric]')].map(each => ({...each.dataset,"
        " text: each.firstChild.textContent, spread: each.querySelector('small')?.innerText ?? ''}))"
    )
    for cell in shown:
        values = [own_value(records[identity], cell["metric"]) for identity in cell["record"].split()]
        if cell["metric"] == "defense.suspect_class":
            assert cell["text"] == "3"
            continue
        assert float(cell["value"]) == fmean(values)
        assert cell["text"] == expected_text(cell["metric"], values)
        if len(values) > 1 and cell["metric"] not in FLAGS:
            assert cell["spread"] == "–".join(
                expected_text(cell["metric"], [end]) for end in (min(values), max(values))
            )
        else:
            assert cell["spread"] == ""

    seen = {(cell["metric"], identity) for cell in shown for identity in cell["record"].split()}
    tabled = {metric for metric, _ in seen}
    for record in records.values():
        if record.status == "done":
            judged = {(metric, record.id) for metric in record.metrics if metric in tabled and "defense." in metric}
            assert judged <= seen


def own_value(record: Record, metric: str) -> float:
    scope, _, name = metric.partition(".")
    value = record.seconds[name] if scope == "seconds" else record.metrics[metric]
    assert isinstance(value, (int, float))
    return float(value)


def expected_text(metric: str, values: list[float]) -> str:
    """Print a number the way a reader expects it, written independently of the report."""
    mean = fmean(values)
    if metric in FLAGS:
        return f"{int(sum(values))} of {len(values)}" if len(values) > 1 else ("yes" if mean else "no")
    if metric == "seconds.defense_per_input":
        return f"{1000 * mean:.2f}"
    if metric == "seconds.defense":
        return f"{mean:.1f}" if mean >= 10 else f"{mean:.2f}"
    if metric in FRACTIONS:
        return f"{mean:.3f}"
    return f"{mean:.2f}" if metric in NUMBERS else f"{100 * mean:.1f}".replace("-0.0", "0.0")


def test_every_picture_is_drawn_and_described(opened: webdriver.Chrome) -> None:
    pictures = opened.execute_script(
        "return Promise.all([...document.images].map(each => each.decode().then(() =>"
        " ({width: each.naturalWidth, shown: each.clientWidth, alt: each.alt}))))"
    )
    assert len(pictures) > 2 * CLASSES
    assert all(picture["width"] > 0 and picture["shown"] > 0 and picture["alt"] for picture in pictures)
    charts = opened.execute_script("return [...document.querySelectorAll('svg')].map(each => each.ariaLabel)")
    assert len(charts) == 4
    assert all(charts)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_charts_have_the_pages_colours_and_every_text_in_full(opened: webdriver.Chrome, scheme: str) -> None:
    feature = {"name": "prefers-color-scheme", "value": scheme}
    opened.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
    try:
        bars, page, soft = opened.execute_script(
            "const of = (each, what) => getComputedStyle(each)[what];"
            "const probe = document.body.appendChild(document.createElement('i'));"
            "const color = name => (probe.style.color = `var(--${name})`, of(probe, 'color'));"
            "return [[...document.querySelectorAll('svg rect')].map(each => of(each, 'fill')),"
            " [color('bar'), color('stamped')], of(document.querySelector('svg text'), 'fill') === color('soft')]"
        )
        assert set(bars) == set(page)
        assert soft
        cut = opened.execute_script(
            "return [...document.querySelectorAll('svg text')].filter(each => {"
            " const box = each.getBoundingClientRect(), all = each.ownerSVGElement.getBoundingClientRect();"
            " return box.left < all.left - 1 || box.right > all.right + 1 || box.top < all.top - 1"
            " || box.bottom > all.bottom + 1 }).map(each => each.textContent)"
        )
        assert cut == []
    finally:
        opened.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


@pytest.mark.parametrize("width", [1280, 390])
def test_the_page_never_scrolls_sideways(opened: webdriver.Chrome, width: int) -> None:
    screen = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 500}
    opened.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
    try:
        page, view = opened.execute_script("return [document.documentElement.scrollWidth, window.innerWidth]")
        assert view == width
        assert page <= width
    finally:
        opened.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_a_rows_link_unfolds_its_cell(browser: webdriver.Chrome, report: str) -> None:
    browser.get(report)
    browser.execute_script("document.querySelectorAll('details').forEach(each => { each.open = false })")
    browser.execute_script("document.querySelector('table a[href^=\"#cell-\"]').click()")
    assert browser.execute_script("return document.querySelector(':target').checkVisibility()")


def test_tables_and_headings_are_accessible(opened: webdriver.Chrome) -> None:
    without_scope = opened.execute_script("return document.querySelectorAll('th:not([scope])').length")
    without_caption = opened.execute_script("return document.querySelectorAll('table:not(:has(caption))').length")
    repeated = opened.execute_script(
        "const ids = [...document.querySelectorAll('[id]')].map(each => each.id); return ids.length - new Set(ids).size"
    )
    dangling = opened.execute_script(
        "return [...document.querySelectorAll('a[href^=\"#\"]')]"
        ".filter(each => !document.getElementById(each.hash.slice(1))).length"
    )
    ragged = opened.execute_script(
        "const right = each => each.getBoundingClientRect().right;"
        "return [...document.querySelectorAll('table')].filter(table => [...table.rows].some(row =>"
        " Math.abs(right(row) - right([...row.cells].at(-1))) > 1)).length"
    )
    assert (without_scope, without_caption, repeated, dangling, ragged) == (0, 0, 0, 0, 0)
