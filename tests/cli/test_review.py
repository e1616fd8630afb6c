"""A person looks at what a screen flagged, and decides."""

from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from gifthorse.bench.store import Arrays, Store
from gifthorse.cli.main import cli
from gifthorse.core.errors import RequestError
from gifthorse.core.record import Record
from gifthorse.report.cells import ReportCell
from gifthorse.report.html import render
from gifthorse.report.review import contact_sheet, review_of, said_of_review
from records import SHRINKPAD, STRIP, record

STAMPED = np.array([True, False, True, True, False])


def screened() -> Record:
    return record(defense=STRIP, metrics={"defense.tpr": 0.9, "defense.fpr": 0.1})


def evidence(first: int = 0) -> Arrays:
    """Five flagged images, three of them stamped."""
    pixels = np.random.default_rng(0).integers(0, 256, (5, 1, 6, 6), np.uint8)
    pixels[0, 0, 0, 0] = first
    return {
        "flagged": pixels,
        "flagged_scores": np.linspace(0.5, 0.9, 5),
        "flagged_answers": np.array([3, 1, 3, 3, 2]),
        "flagged_stamped": STAMPED,
        "flagged_attributions": pixels[::-1].copy(),
    }


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """A record of a screen, and one of a defense that flags nothing."""
    kept = Store(tmp_path / "runs")
    for each in (screened(), record(defense=SHRINKPAD)):
        kept.save_record(each)
        kept.save_artifact("evidence", each.id, evidence() if each.family == "filtering" else {}, {})
    return kept


def flagging(store: Store) -> Record:
    return next(each for each in store.records() if each.family == "filtering")


def call(store: Store, *arguments: str) -> Result:
    return CliRunner().invoke(cli, [*arguments, "--store", str(store.root)])


def out(store: Store, *arguments: str) -> str:
    found = call(store, *arguments)
    assert found.exit_code == 0, found.output
    return " ".join(found.output.split())


def test_a_decision_is_kept_beside_the_record_and_shown_in_the_report(store: Store, tmp_path: Path) -> None:
    """Two of three stamped images and one of two clean ones: 0.9 × 2/3 and 0.1 × 1/2 are turned away."""
    identity = flagging(store).id
    assert "nobody has reviewed" in out(store, "review", identity)
    said = out(store, "review", identity, "--reject", "0,1-2", "--by", "Ada")
    assert "2 of 3 stamped and 1 of 2 clean ones were rejected" in said
    assert "60.0 % of stamped images (the screen alone 90.0 %)" in said
    assert "5.0 % of clean images (the screen alone 10.0 %)" in said
    assert said in out(store, "review", identity)
    kept = store.load_review(identity)
    assert kept is not None
    assert (kept.rejected, kept.by) == ([0, 1, 2], "Ada")
    out(store, "report", "--out", str(tmp_path / "report.html"))
    assert "Reviewed by Ada on" in (tmp_path / "report.html").read_text()
    assert "0 of 3 stamped and 0 of 2 clean" in out(store, "review", identity, "--reject", "none")
    out(store, "rm", "--defense", "strip", "--yes")
    assert store.load_review(identity) is None


def test_the_sheet_shows_every_image_and_does_not_tell_which_are_stamped(store: Store, tmp_path: Path) -> None:
    page = tmp_path / "sheet.html"
    identity = flagging(store).id
    out(store, "review", identity, "--out", str(page))
    html = page.read_text()
    assert html.count("<figure>") == 5
    assert html.count("background-image") == 5
    assert f"gifthorse review {identity} --reject" in html
    assert "taken for 3, score 0.5" in html
    assert "<script" not in html
    truth = {**evidence(), "flagged_stamped": ~STAMPED}
    assert contact_sheet(flagging(store), truth) == html
    assert html.count("what the answer to image") == 5
    bare = {name: array for name, array in evidence().items() if name != "flagged_attributions"}
    assert "what the answer to image" not in contact_sheet(flagging(store), bare)


def test_a_review_of_other_images_says_nothing() -> None:
    cell = screened()
    review = review_of(cell, evidence(), {0}, None, "2026-01-01")
    assert said_of_review(review, cell, evidence()).startswith("Reviewed on 2026-01-01: of the flagged images")
    assert said_of_review(review, cell, evidence(first=9)) == ""
    assert said_of_review(None, cell, evidence()) == ""
    assert "Reviewed" not in render([ReportCell(cell, lambda: evidence(first=9), review)])


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["nope"], "no record is called 'nope'"),
        ([""], "2 records begin with ''"),
        (["STRIP", "--reject", "5"], "there is no image 5; they go from 0 to 4"),
        (["STRIP", "--reject", "0,x"], "'x' is no number; say 0,3,7-9 or none"),
        (["STRIP", "--reject", "0-"], "'0-' is no number"),
        (["STRIP", "--by", "Ada"], "--by says who decided: give the decision as well"),
        (["STRIP", "--out", "sheet.png"], "its name ends in .html"),
        (["SHRINKPAD"], "keeps no flagged images: only a filter of inputs flags any"),
    ],
)
def test_what_cannot_be_reviewed_is_said_in_a_sentence(arguments: list[str], problem: str, store: Store) -> None:
    names = {str(each.defense and each.defense["name"]).upper(): each.id for each in store.records()}
    given = [names.get(each, each) for each in arguments]
    found = call(store, "review", *given)
    assert isinstance(found.exception, RequestError), found.output
    assert problem in str(found.exception)
