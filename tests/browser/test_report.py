"""A report in a real browser: quiet, self-contained, legible at any width, its numbers those of the records."""

import base64
import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import pytest
from benchmarks.report import cells as thousand_cells
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import Select

from gifthorse.core.record import Population, Record
from gifthorse.report.cells import ReportCell
from gifthorse.report.html import render, render_split
from records import bare, model, population

NAMES = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
CLASSES, SIDE = len(NAMES), 16
FRACTIONS = {"defense.auroc", "defense.f1", "defense.mjs"}
FLAGS = {"attack.valid", "defense.flagged", "defense.hit"}
NUMBERS = {"defense.index", "defense.aiv_log", "defense.aiv_ratio", "defense.mln"}


def make_record(identity: str, attack: dict[str, Any], defense: dict[str, Any] | None, **changes: Any) -> Record:
    values: dict[str, Any] = {
        "id": identity,
        "class_names": NAMES,
        "profile": "smoke",
        "attack": attack,
        "defense": defense,
        "seconds": {"benign": 3.1, "attack": 2.2, "defense": 0.4, "defense_per_input": 0.002},
    }
    return bare(**values | changes)


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
        made.append(ReportCell(record, partial(dict, pictures | evidence)))

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
    mnist = {"dataset": {"name": "mnist"}, "metrics": took | {"defense.asr": 0.5}, "evidence": reformed}
    cell(badnets, {"name": "shrinkpad", "shrink": 2}, **mnist)
    return made


def make_population(cells: list[ReportCell]) -> Population:
    """Return a population of which one model is in the report."""
    (first, *_) = (cell.record for cell in cells if cell.record.family == "inspection")
    reason = "the attack did not take: success rate 0.310, under 0.8"
    caught = {"target": 3, "flagged": True, "hit": True}
    return population(
        [model(index, seed=seed, flagged=False) for seed, index in enumerate([1.0, 1.5, 3.0])],
        [model(2.5, id=first.id, **caught), model(3.5, seed=1, **caught)],
        profile=first.profile,
        attack=first.attack,
        varied_target=False,
        defense=first.defense,
        auroc=5 / 6,
        auroc_interval=(0.3, 0.97),
        flagged_benign=1 / 3,
        flagged_trojaned=1.0,
        suspect_hit_rate=1.0,
        suspect_hit_rate_interval=(0.16, 1.0),
        readouts={"defense.aiv_log": {"auroc": 0.75, "auroc_interval": (0.25, 0.95)}},
        left_out=[{"id": "gone", "group": "trojaned", "seed": 2, "status": "done", "reason": reason}],
    )


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
    path.write_text(render(cells, [make_population(cells)]))
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
def page(browser: webdriver.Chrome, report: str) -> webdriver.Chrome:
    """Load the report; the logs hold this load alone."""
    for kind in ("browser", "performance"):
        browser.get_log(kind)  # type: ignore[no-untyped-call]
    browser.get(report)
    return browser


@pytest.fixture
def opened(page: webdriver.Chrome) -> webdriver.Chrome:
    """Unfold everything."""
    page.execute_script("document.querySelectorAll('details').forEach(each => { each.open = true })")
    return page


@contextmanager
def media(browser: webdriver.Chrome, kind: str = "", scheme: str = "light") -> Iterator[None]:
    """Look at the page as it is printed, or in the dark."""
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": kind, "features": features})
    try:
        yield
    finally:
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "", "features": []})


def test_the_console_stays_silent_whatever_is_clicked(opened: webdriver.Chrome) -> None:
    clicked = opened.execute_script(
        "const buttons = [...document.querySelectorAll('thead button, summary')];"
        "buttons.forEach(each => each.click()); return buttons.length"
    )
    assert clicked > 30
    choose(opened, "text", "badnets")
    choose(opened, "status", "failed")
    opened.find_element(By.CSS_SELECTOR, "#filter [type=reset]").click()
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
        " text: each.firstChild.textContent,"
        " spread: each.closest('td').querySelector('small:not(.mark, .verdict)')?.innerText ?? ''}))"
    )
    for cell in shown:
        values = [own_value(records[identity], cell["metric"]) for identity in cell["record"].split()]
        if cell["metric"] == "defense.suspect_class":
            assert cell["text"] == "3 (three)"
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
    tabled = {"attack.acc", "attack.asr", "attack.cad", "attack.valid", "benign.asr"}
    assert {metric for metric, _ in seen} >= tabled
    for record in records.values():
        if record.status == "done":
            numbers = {name for name, value in record.metrics.items() if isinstance(value, (int, float))}
            judged = {(name, record.id) for name in numbers if name.startswith("defense.")}
            assert judged
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
        "return Promise.all([...document.querySelectorAll('.picture')].map(each => {"
        " const image = new Image();"
        " image.src = getComputedStyle(each).backgroundImage.slice(5, -2);"
        " return image.decode().then(() => ({width: image.naturalWidth, height: image.naturalHeight, role: each.role,"
        " ratio: each.clientWidth / each.clientHeight, shown: each.clientWidth, label: each.ariaLabel})); }))"
    )
    assert len(pictures) > 2 * CLASSES
    for picture in pictures:
        assert picture["label"]
        assert picture["role"] == "img"
        assert picture["shown"] >= 50
        assert picture["ratio"] == pytest.approx(picture["width"] / picture["height"], rel=0.02)
    charts = opened.execute_script("return [...document.querySelectorAll('svg')].map(each => each.ariaLabel)")
    assert len(charts) == 5
    assert all(charts)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_charts_have_the_pages_colours_and_every_text_in_full(opened: webdriver.Chrome, scheme: str) -> None:
    with media(opened, scheme=scheme):
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


def visible(browser: webdriver.Chrome, selector: str) -> list[str]:
    """Return the texts of what is shown, whitespace made plain."""
    found: list[str] = browser.execute_script(
        "return [...document.querySelectorAll(arguments[0])].filter(each => each.checkVisibility())"
        ".map(each => each.innerText.replace(/\\s+/g, ' ').trim())",
        selector,
    )
    return found


def table(browser: webdriver.Chrome, sentence: str) -> Any:
    """Return the first table with this sentence in its caption."""
    found = browser.find_elements(By.CSS_SELECTOR, ".group table")
    return next(each for each in found if sentence in each.find_element(By.TAG_NAME, "caption").text)


def head(found: Any, text: str) -> Any:
    """Return the button in the head of a column."""
    buttons = found.find_elements(By.CSS_SELECTOR, "thead button")
    return next(each for each in buttons if each.text.split("\n")[0] == text)


def column(browser: webdriver.Chrome, button: Any) -> list[str | None]:
    """Return the values of a column from top to bottom; ``None`` where there is no number."""
    found: list[str | None] = browser.execute_script(
        "const head = arguments[0].closest('th');"
        "return [...head.closest('table').tBodies].map(body => body.rows[0].cells[head.cellIndex])"
        ".map(cell => cell?.dataset.value ?? cell?.querySelector('[data-value]')?.dataset.value ?? null)",
        button,
    )
    return found


@pytest.mark.parametrize(
    ("sentence", "what"), [("How well each backdoor was planted", "ASR"), ("One number for each pair", "shrinkpad")]
)
def test_a_column_is_sorted_by_its_head_there_and_back(page: webdriver.Chrome, sentence: str, what: str) -> None:
    found = table(page, sentence)
    button = head(found, what)
    before = column(page, button)
    assert None in before
    numbers = [float(value) for value in before if value is not None]
    assert len(numbers) > 1
    orders = []
    for order, sign in (("descending", -1), ("ascending", 1)):
        button.click()
        orders.append(column(page, button))
        # What has no number is last, either way.
        expected = [*sorted(numbers, key=lambda each: sign * each), *[None] * before.count(None)]
        assert [None if value is None else float(value) for value in orders[-1]] == expected
        assert page.execute_script("return arguments[0].closest('th').ariaSort", button) == order
        assert len(found.find_elements(By.CSS_SELECTOR, "[aria-sort]")) == 1
    button.click()
    assert column(page, button) == before
    assert before not in orders
    assert not found.find_elements(By.CSS_SELECTOR, "[aria-sort]")
    head(found, "Attack").click()
    names = [each.text for each in found.find_elements(By.CSS_SELECTOR, "tbody tr:first-child > th:first-child")]
    words = [name.split("\n")[:2] for name in names]
    assert words == [["badnets", "poison_rate=0.001"], ["badnets", "poison_rate=0.1"], ["none", "benign model"]]


def test_sorted_rows_take_their_notes_along_and_each_says_its_attack(page: webdriver.Chrome) -> None:
    filtering = table(page, "Flags suspicious inputs")

    def rows() -> list[str]:
        found: list[str] = page.execute_script(
            "return [...arguments[0].tBodies].map(each => each.textContent)", filtering
        )
        return found

    before, repeated = rows(), filtering.find_elements(By.CSS_SELECTOR, ".same th:first-child div")
    assert repeated
    assert all(each.size["width"] <= 1 for each in repeated)
    head(filtering, "AUROC").click()
    assert rows() != before
    assert sorted(rows()) == sorted(before)
    assert all(each.size["width"] > 20 for each in repeated)


def choose(browser: webdriver.Chrome, field: str, value: str) -> None:
    element = browser.find_element(By.NAME, field)
    if field == "text":
        element.clear()
        element.send_keys(value)
    else:
        Select(element).select_by_visible_text(value)


def cells_shown(browser: webdriver.Chrome) -> list[str]:
    browser.execute_script("document.querySelectorAll('.trojan').forEach(each => { each.open = true })")
    return visible(browser, ".cell > summary")


@pytest.mark.parametrize(
    ("field", "value", "shown"),
    [
        ("text", "strip", 4),
        ("text", "overlays=900", 1),
        ("text", "STRIP seed", 4),
        ("text", "needs 920 clean", 1),
        ("text", "no such thing", 0),
        ("attack", "none", 1),
        ("attack", "badnets[poison_rate=0.001]", 2),
        ("defense", "neural_cleanse", 3),
        ("dataset", "mnist", 1),
        ("status", "skipped", 1),
        ("status", "failed", 1),
        ("status", "did not take", 1),
        ("status", "not run", 0),
    ],
)
def test_the_filter_shows_what_was_asked_for(
    page: webdriver.Chrome, cells: list[ReportCell], field: str, value: str, shown: int
) -> None:
    everything = cells_shown(page)
    rows = len(visible(page, "tbody.row"))
    choose(page, field, value)
    assert len(cells_shown(page)) == shown
    assert page.find_element(By.TAG_NAME, "output").text == f"{shown} of {len(cells)} cells"
    # Rows without a cell in sight are gone as well, and with them tables and groups.
    assert len(visible(page, "tbody.row")) < rows
    for block in page.find_elements(By.CSS_SELECTOR, ".block"):
        inside = page.execute_script(
            "return [...arguments[0].querySelectorAll('.row, .cell')].some(each => each.checkVisibility())", block
        )
        assert block.is_displayed() == inside
    assert bool(visible(page, "#nothing")) == (shown == 0 and value != "not run")
    page.find_element(By.CSS_SELECTOR, "#filter [type=reset]").click()
    page.execute_script("return new Promise(done => setTimeout(done, 50))")
    assert cells_shown(page) == everything
    assert page.find_element(By.TAG_NAME, "output").text == f"{len(cells)} cells"


def test_the_filter_narrows_the_matrix_to_rows_and_columns_with_something_in_them(page: webdriver.Chrome) -> None:
    defenses, families = ".matrix thead tr:last-child th", ".matrix thead tr:first-child th"
    assert len(visible(page, f".group:first-of-type {defenses}")) > 4
    choose(page, "status", "skipped")
    assert visible(page, defenses) == ["Attack", "strip overlays=900"]
    assert [text.split(" AUROC")[0] for text in visible(page, families)] == ["Input filtering"]
    assert len(visible(page, ".matrix tbody")) == 1
    choose(page, "status", "not run")
    dimmed = page.execute_script(
        "return [...document.querySelectorAll('.square')].filter(each => each.checkVisibility())"
        ".map(each => [each.classList.contains('dim'), each.innerText.includes('not run')])"
    )
    assert any(dim for dim, _ in dimmed)
    assert all(dim != missing for dim, missing in dimmed)
    edges = page.execute_script(
        "return [...document.querySelectorAll('.matrix')].filter(each => each.checkVisibility()).map(table =>"
        " [...table.rows].filter(each => each.checkVisibility()).map(row =>"
        " Math.round([...row.cells].filter(each => each.checkVisibility()).at(-1).getBoundingClientRect().right)))"
    )
    assert all(len(set(rights)) == 1 for rights in edges)


def test_a_link_to_what_is_filtered_away_or_folded_shows_it(page: webdriver.Chrome) -> None:
    page.execute_script("document.querySelectorAll('details').forEach(each => { each.open = false })")
    link = page.find_element(By.CSS_SELECTOR, ".matrix .square a[href^='#cell-']")
    target = page.execute_script("return arguments[0].hash", link)
    choose(page, "dataset", "mnist")
    page.execute_script("arguments[0].click()", link)
    assert page.execute_script("return document.querySelector(arguments[0]).checkVisibility()", target)
    assert page.find_element(By.NAME, "text").get_attribute("value") == ""
    page.execute_script("document.querySelector('.mark sup a').click()")
    assert page.execute_script("return document.querySelector(':target').innerText").startswith(("skipped", "failed"))


def test_everything_is_done_by_keyboard(page: webdriver.Chrome) -> None:
    page.execute_script("document.querySelectorAll('details').forEach(each => { each.open = false })")
    page.find_element(By.NAME, "text").send_keys("badnets", Keys.TAB)
    assert page.switch_to.active_element.get_attribute("name") == "dataset"
    page.switch_to.active_element.send_keys("d")
    assert page.find_element(By.NAME, "dataset").get_attribute("value") == "digits"
    head(page.find_element(By.CSS_SELECTOR, ".matrix"), "strip").send_keys(Keys.ENTER)
    assert page.execute_script("return document.querySelector('.matrix [aria-sort]').ariaSort") == "descending"
    assert page.execute_script("return document.activeElement.closest('th').ariaSort") == "descending"
    ring = page.execute_script("return getComputedStyle(document.activeElement).outlineStyle")
    assert ring == "solid"
    summary = page.find_element(By.CSS_SELECTOR, ".trojan:not([hidden]) > summary")
    summary.send_keys(Keys.ENTER)
    assert page.execute_script("return arguments[0].parentElement.open", summary)
    cell = page.find_element(By.CSS_SELECTOR, ".trojan[open] .cell:not([hidden]) > summary")
    cell.send_keys(Keys.SPACE)
    again = page.find_element(By.CSS_SELECTOR, ".cell[open] .again > summary")
    assert not visible(page, "pre")
    again.send_keys(Keys.ENTER)
    (command,) = visible(page, "pre")
    assert command.startswith("gifthorse run")
    reachable = page.execute_script(
        "return [...document.querySelectorAll('a, button, input, select, summary, .scroll, pre')]"
        ".filter(each => each.tabIndex < 0).length"
    )
    assert reachable == 0


def test_without_scripts_the_page_is_all_there(browser: webdriver.Chrome, report: str, cells: list[ReportCell]) -> None:
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        browser.get(report)
        assert not visible(browser, "#filter, button, #nothing")
        heads = visible(browser, ".matrix thead th")
        assert "Attack" in heads
        assert len(visible(browser, ".matrix .square a[href^='#cell-']")) >= 6
        assert any("skipped" in text for text in visible(browser, ".footnotes"))
        for summary in browser.find_elements(By.CSS_SELECTOR, ".trojan:not([open]) > summary"):
            summary.click()
        assert len(visible(browser, ".cell > summary")) == len(cells)
        browser.find_element(By.CSS_SELECTOR, ".cell:not([open]) > summary").click()
        assert visible(browser, ".cell[open] .body")
        pictures = browser.execute_script(
            "return [...document.querySelectorAll('.picture')].filter(each => each.checkVisibility())"
            ".map(each => getComputedStyle(each).backgroundImage.startsWith('url(\"data:image/'))"
        )
        assert pictures
        assert all(pictures)
    finally:
        browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})


def test_nothing_but_the_reports_script_runs_and_nothing_is_fetched(page: webdriver.Chrome) -> None:
    violations = page.execute_script(
        "const found = [];"
        "document.addEventListener('securitypolicyviolation', each => found.push(each.effectiveDirective));"
        "const add = (name, values) => document.body.append(Object.assign(document.createElement(name), values));"
        "add('script', {textContent: 'window.intruder = 1'});"
        "add('script', {src: 'data:text/javascript,window.intruder = 1'});"
        "add('iframe', {src: 'data:text/html,x'});"
        "add('img', {src: 'https://example.org/x.png'});"
        "document.body.insertAdjacentHTML('beforeend', '<b onclick=\"window.intruder = 1\" id=bait>x</b>');"
        "document.getElementById('bait').click();"
        "return fetch('https://example.org').then(() => ['fetched'], () => new Promise(done =>"
        " setTimeout(() => done(window.intruder ? ['ran'] : found), 200)))"
    )
    assert set(violations) == {
        "script-src-elem",
        "script-src-attr",
        "frame-src",
        "img-src",
        "connect-src",
    }


def test_printed_it_is_black_on_white_without_the_filter_and_with_what_is_open(page: webdriver.Chrome) -> None:
    with media(page, "print", "dark"):
        assert not visible(page, "#filter, .again")
        ink, paper = page.execute_script(
            "const style = getComputedStyle(document.body); return [style.color, style.backgroundColor]"
        )
        assert (ink, paper) == ("rgb(0, 0, 0)", "rgb(255, 255, 255)")
        assert visible(page, ".matrix .tint")
        adjust = "return getComputedStyle(document.querySelector('.picture')).printColorAdjust"
        assert page.execute_script(adjust) == "exact"
        # A4 within its margins; a browser shrinks what it prints to as little as half of its size.
        screen = {"width": 718, "height": 1000, "deviceScaleFactor": 1, "mobile": False}
        page.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
        wide, cut = page.execute_script(
            "const all = selector => [...document.querySelectorAll(selector)], right = each =>"
            " each.getBoundingClientRect().right;"
            "return [all('table, figure, pre').filter(each => right(each) > 2 * innerWidth).length,"
            " all('.scroll').filter(each => getComputedStyle(each).overflowX !== 'visible').length]"
        )
        page.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
        assert (wide, cut) == (0, 0)
    page.execute_script("document.querySelectorAll('details').forEach(each => { each.open = false })")
    folded = printed_pages(page)
    page.execute_script("document.querySelectorAll('details').forEach(each => { each.open = true })")
    assert 0 < folded < printed_pages(page)


def printed_pages(browser: webdriver.Chrome) -> int:
    printed = browser.execute_cdp_cmd("Page.printToPDF", {"printBackground": False})
    return len(re.findall(rb"/Type /Page\b", base64.b64decode(printed["data"])))


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_from_what_is_behind_it(opened: webdriver.Chrome, scheme: str) -> None:
    """WCAG 2 asks for a contrast of 4.5."""
    with media(opened, scheme=scheme):
        found = opened.execute_script(
            "const canvas = document.createElement('canvas').getContext('2d', {willReadFrequently: true});"
            "const levels = colour => { canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1);"
            "  return [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3); };"
            "const luminance = colour => levels(colour).map(level => level / 255).map(each =>"
            "  each <= .04045 ? each / 12.92 : ((each + .055) / 1.055) ** 2.4)"
            "  .reduce((sum, each, place) => sum + each * [.2126, .7152, .0722][place], 0);"
            "const behind = each => { for (; each; each = each.parentElement) {"
            "  const colour = getComputedStyle(each).backgroundColor;"
            "  if (colour !== 'rgba(0, 0, 0, 0)') return colour; } };"
            "const texts = 'p, a, th, td, dd, dt, small, strong, summary, span, figcaption, code, li';"
            "return [...document.querySelectorAll(texts)]"
            "  .filter(each => each.checkVisibility() && !each.matches('.picture, .hidden') && each.innerText.trim())"
            "  .map(each => { const colours = [getComputedStyle(each).color, behind(each)].map(luminance);"
            "    const [a, b] = colours.sort((a, b) => b - a);"
            "    return [(a + .05) / (b + .05), each.className, each.innerText.slice(0, 40)]; })"
            "  .sort((a, b) => a[0] - b[0]).slice(0, 5)"
        )
        assert found[0][0] >= 4.5, found


def test_a_thousand_cells_are_there_in_two_seconds_and_filtered_at_once(
    browser: webdriver.Chrome, tmp_path: Path
) -> None:
    cells = [ReportCell(record, partial(dict, arrays)) for record, arrays in thousand_cells()]
    assert len(cells) == 1000
    path = tmp_path / "large.html"
    path.write_text(render(cells))
    assert path.stat().st_size < 10e6
    browser.get("about:blank")
    # Of the processor, so that what else runs here does not count.
    browser.execute_cdp_cmd("Performance.enable", {"timeDomain": "threadTicks"})
    try:
        browser.get(path.as_uri())
        browser.execute_script("return document.body.offsetHeight")
        loaded = busy(browser)
        assert loaded < 2
        choose(browser, "attack", "imc")
        browser.execute_script("return document.body.offsetHeight")
        assert busy(browser) - loaded < 1
        assert browser.find_element(By.TAG_NAME, "output").text == "100 of 1,000 cells"
    finally:
        browser.execute_cdp_cmd("Performance.disable", {})


def busy(browser: webdriver.Chrome) -> float:
    """Return how many seconds the page's main thread has computed."""
    metrics = browser.execute_cdp_cmd("Performance.getMetrics", {})["metrics"]
    return next(float(each["value"]) for each in metrics if each["name"] == "TaskDuration")


def test_split_pages_are_quiet_and_lead_to_each_other(
    browser: webdriver.Chrome, cells: list[ReportCell], tmp_path: Path
) -> None:
    browser.get_log("browser")  # type: ignore[no-untyped-call]
    for name, page in render_split(cells, [make_population(cells)]):
        (tmp_path / name).write_text(page)
    browser.get((tmp_path / "index.html").as_uri())
    choose(browser, "defense", "neural_cleanse")
    assert browser.find_element(By.TAG_NAME, "output").text == f"3 of {len(cells)} cells"
    browser.find_element(By.CSS_SELECTOR, ".matrix tbody:not([hidden]) .square:not([hidden]) a").click()
    assert "attack-" in browser.current_url
    assert browser.execute_script("return document.querySelector(':target').checkVisibility()")
    browser.find_element(By.CSS_SELECTOR, "nav a").click()
    assert browser.current_url.endswith("index.html")
    assert browser.get_log("browser") == []  # type: ignore[no-untyped-call]
