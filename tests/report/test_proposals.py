"""What was proposed and never run says so wherever its row and its cell stand, and nothing else does."""

from typing import Any

import pytest

from gifthorse.attacks import ATTACKS
from gifthorse.core.record import Record
from gifthorse.report.cells import ReportCell
from gifthorse.report.html import render
from gifthorse.report.overview import overview_of
from gifthorse.report.proposals import proposed, proposed_attack, proposed_stamp
from gifthorse.report.tables import group
from gifthorse.stampings import STAMPS
from records import CLEANSE, STRIP, record

AEGIS = "proposed by its paper, not run there (AEGIS, V-C)"
DYNAMIC = "proposed by its paper, not run there (Dynamic Backdoors, 4.6)"


def attacked(request: str, **changes: Any) -> Record:
    return record(**{"attack": ATTACKS.build(request).to_dict()} | changes)


@pytest.mark.parametrize(
    "request_",
    [
        "aegis_mimicry",
        "imc[against=[strip,aegis]]",
        "aegis_subset",
        "ban[train_share=0.9]",
        "enhanced[base=badnets[train_share=0.5]]",
        "multimodal_clean",
        "aegis_natural",
    ],
)
def test_what_aegis_proposes_is_told_by_its_settings(request_: str) -> None:
    found = attacked(request_)
    assert proposed(found) == proposed_attack(found) == AEGIS
    assert proposed_stamp(found) is None


@pytest.mark.parametrize("request_", ["none", "badnets", "imc[against=strip]", "enhanced[base=badnets]", "cban"])
def test_what_was_run_is_not_marked(request_: str) -> None:
    assert proposed(attacked(request_)) is None
    assert proposed(attacked(request_, stamp=STAMPS.build("shifted").to_dict(), defense={"name": "aegis"})) is None


def test_trying_again_is_marked_where_it_was_done() -> None:
    found = record(stamp=STAMPS.build("requeried").to_dict())
    assert proposed(found) == proposed_stamp(found) == DYNAMIC
    assert proposed_attack(found) is None


def test_rows_blocks_and_cards_say_it() -> None:
    screened = {"defense.auroc": 0.9, "stamp.asr": 0.8}
    again = STAMPS.build("requeried").to_dict()
    records = [
        attacked("badnets[train_share=0.5]", defense=STRIP, metrics=screened),
        attacked("badnets", defense=STRIP, metrics=screened),
        attacked("badnets", defense=STRIP, metrics=screened, stamp=again),
    ]
    (found,) = group(records)
    assert {row.label: row.proposal for row in found.attacks} == {
        "badnets[train_share=0.5]": AEGIS,
        "badnets[train_share=1.0]": "",
    }
    (table,) = [each for each in found.tables if each.about.name == "filtering"]
    assert [block.proposal for block in table.blocks] == [AEGIS, ""]
    assert {row.label: row.proposal for row in table.blocks[1].rows} == {"strip": "", "strip, requeried": DYNAMIC}
    page = render([ReportCell(each) for each in records])
    assert page.count(f"<small>{AEGIS}</small>") >= 2
    assert page.count(f"<small>{DYNAMIC}</small>") == 1
    assert page.count(f'<p class="hint">{AEGIS}</p>') == 1
    assert page.count(f'<p class="hint">{DYNAMIC}</p>') == 1
    assert AEGIS not in render([ReportCell(records[1])])


def test_no_detector_gets_credit_for_a_false_alarm() -> None:
    benign = {"attack.acc": 0.97, "defense.flagged": True, "defense.index": 3.0}
    records = [
        attacked("badnets", defense=CLEANSE, metrics={"defense.flagged": True, "defense.index": 3.0}),
        *(
            attacked(each, defense=CLEANSE).model_copy(update={"metrics": benign})
            for each in ("none", "multimodal_clean")
        ),
    ]
    (found,) = group(records)
    overview = overview_of(found)
    assert overview is not None
    credit = {line.attack.label: line.squares[0][0].credit for line in overview.lines}
    assert credit == {"none": None, "badnets": 1.0, "multimodal_clean": None}
