"""Records become tables without losing, inventing or mistaking a number, and nothing in them becomes markup."""

import re
import shlex
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from markupsafe import Markup

from gifthorse.core.command import bracket, command
from gifthorse.core.configuration import split_request
from gifthorse.core.family import FAMILIES, Family
from gifthorse.core.metric import METRICS, NORM, Metric
from gifthorse.core.record import Record
from gifthorse.report import details
from gifthorse.report.cells import ReportCell
from gifthorse.report.figures import bar_chart, recovered_triggers
from gifthorse.report.html import render
from gifthorse.report.tables import Group, Row, group, measure

HOSTILE = "</td></style><script>alert(1)</script><img src=x onerror=alert(2)>\"'&{{ 7*7 }}"
ATTACK = {"attack.acc": 0.97, "attack.ccc": 0.95, "attack.asr": 0.99, "attack.cad": 0.01, "attack.valid": True}
BADNETS = {"name": "badnets", "target": 1, "poison_rate": 0.1}
STRIP = {"name": "strip", "overlays": 8}
SHRINKPAD = {"name": "shrinkpad", "shrink": 2}
CLEANSE = {"name": "neural_cleanse", "steps": 30}
FAMILY_OF = {
    "shrinkpad": "reformation",
    "strip": "filtering",
    "fine_pruning": "sanitization",
    "neural_cleanse": "inspection",
}
FCN1 = {"name": "fcn1", "tuning": "partial", "share": 1.0}
COUNTER = iter(range(10**6))


def record(**changes: Any) -> Record:
    values: dict[str, Any] = {
        "id": f"id{next(COUNTER)}",
        "status": "done",
        "dataset": {"name": "digits", "size": 16},
        "model": {"name": "small_cnn", "width": 16},
        "training": {"name": "standard", "epochs": 20},
        "profile": "smoke",
        "seed": 0,
        "attack": BADNETS,
        "defense": None,
        "metrics": ATTACK,
        "environment": {
            "gifthorse": "0.1.0",
            "commit": None,
            "dirty": None,
            "python": "3.11",
            "torch": "2",
            "device": "cpu",
            "threads": 1,
        },
        "created": "2026-01-01T00:00:00.000+00:00",
    }
    values |= changes
    defense = values["defense"]
    return Record.model_validate({"family": defense and FAMILY_OF.get(defense["name"], "sanitization")} | values)


def screened(seed: int = 0, **changes: Any) -> Record:
    metrics = ATTACK | {
        "defense.tpr": 0.9 + 0.01 * seed,
        "defense.fpr": 0.05,
        "defense.auroc": 0.97,
        "defense.f1": 0.92,
    }
    return record(
        **{"seed": seed, "defense": STRIP, "metrics": metrics, "seconds": {"defense_per_input": 1e-3}} | changes
    )


def tuned(head: dict[str, Any], asr: float, seed: int = 0, **changes: Any) -> Record:
    """Return a cell whose network got a new head, on its own images unless told otherwise."""
    metrics = ATTACK | {"downstream.acc": 0.96, "downstream.cad": 0.01, "downstream.asr": asr}
    downstream = {"head": head, "dataset": {"name": "digits", "size": 16}}
    values = {"seed": seed, "metrics": metrics, "downstream": downstream, "seconds": {"downstream": 1.5}}
    return record(**values | changes)


def page(*records: Record) -> str:
    return render([ReportCell(each) for each in records])


def only_group(*records: Record) -> Group:
    (found,) = group(records)
    return found


def only_row(*records: Record) -> Row:
    """Return the one row of the one family's table."""
    (table,) = only_group(*records).tables
    (block,) = table.blocks
    (row,) = block.rows
    return row


def shown(row: Row, metric: str) -> Any:
    (value,) = [value for value in row.values if value is not None and value.metric == metric]
    return value


def cells_of(html: str) -> list[dict[str, str]]:
    pattern = (
        r'data-metric="(?P<metric>[^"]*)" data-record="(?P<records>[^"]*)" data-value="(?P<raw>[^"]*)">(?P<text>[^<]*)'
    )
    return [match.groupdict() for match in re.finditer(pattern, html)]


def test_nothing_in_a_record_becomes_markup() -> None:
    hostile = {"name": HOSTILE, "field": HOSTILE, HOSTILE: [HOSTILE]}
    place = {
        "gifthorse": HOSTILE,
        "commit": HOSTILE,
        "dirty": True,
        "python": HOSTILE,
        "torch": HOSTILE,
        "device": HOSTILE,
    }
    html = render(
        [
            ReportCell(
                record(
                    id=HOSTILE,
                    status="failed",
                    reason=HOSTILE,
                    dataset=hostile,
                    model=hostile,
                    training=hostile,
                    profile=HOSTILE,
                    attack=hostile,
                    defense=hostile,
                    metrics={f"defense.{HOSTILE}": 0.5, "attack.acc": 0.5},
                    environment={**place, "threads": 1},
                    created=HOSTILE,
                ),
                {HOSTILE: np.zeros(1)},
            ),
            ReportCell(
                record(model=hostile | {"arch": HOSTILE}, downstream={"head": hostile, "dataset": hostile | {"x": 1}})
            ),
        ],
        title=HOSTILE,
    )
    assert "<script" not in html
    assert "<img" not in html
    assert "49" not in re.findall(r"<h1>.*?</h1>", html)[0]
    assert html.count("</style>") == 1


def test_table_numbers_are_the_records_own() -> None:
    records = [record(), screened(0), screened(1)]
    by_id = {each.id: each for each in records}
    cells = cells_of(page(*records))
    assert {"attack.asr", "defense.tpr", "defense.auroc", "seconds.defense_per_input"} <= {
        cell["metric"] for cell in cells
    }
    for cell in cells:
        values = [measure(by_id[identity], cell["metric"]) for identity in cell["records"].split()]
        assert None not in values
        assert float(cell["raw"]) == pytest.approx(np.mean([value for value in values if value is not None]), rel=1e-12)


def test_one_seed_is_shown_as_it_is_and_rates_as_percent() -> None:
    row = only_row(screened(0))
    tpr, auroc = shown(row, "defense.tpr"), shown(row, "defense.auroc")
    assert (row.seeds, tpr.text, tpr.spread, tpr.raw) == (1, "90.0", "", "0.9")
    assert auroc.text == "0.970"


def test_several_seeds_are_a_mean_with_the_range() -> None:
    row = only_row(screened(0), screened(1), screened(5))
    value = shown(row, "defense.tpr")
    assert (row.seeds, value.text, value.spread) == (3, "92.0", "90.0–95.0")
    assert float(value.raw) == pytest.approx(0.92)
    assert value.records == row.records


def test_every_share_says_of_how_many_images_it_is() -> None:
    one = screened(0, counts={"attack.asr": 325, "defense.tpr": 500, "defense.held_out_asr": [3, 4]})
    other = screened(1, counts={"attack.asr": 325, "defense.tpr": 480})
    assert shown(only_row(one), "defense.tpr").n == "500"
    assert shown(only_row(one, other), "defense.tpr").n == "480–500"
    assert shown(only_row(one), "defense.fpr").n == ""
    assert shown(only_group(one, other).attacks[0], "attack.asr").n == "325"
    html = page(one)
    assert ">99.0<small>n 325</small></td>" in html
    assert ">90.0<small>n 500</small></td>" in html
    assert ">90.0% <small>n 500</small></dd>" in html
    assert "<small>n 480–500</small>" in page(one, other)


def test_flags_are_counted_and_classes_listed_instead_of_averaged() -> None:
    def verdict(seed: int, flagged: bool, suspect: int) -> Record:
        found = {"defense.index": 3.0, "defense.flagged": flagged} | (
            {"defense.suspect_class": suspect} if flagged else {}
        )
        return record(seed=seed, defense=CLEANSE, metrics=ATTACK | found)

    row = only_row(verdict(0, True, 7), verdict(1, False, 0), verdict(2, True, 3))
    assert shown(row, "defense.flagged").text == "2 of 3"
    assert shown(row, "defense.suspect_class").text == "3, 7"
    assert len(shown(row, "defense.suspect_class").records) == 2


def test_an_attack_counts_once_per_seed_whatever_the_number_of_defenses() -> None:
    other = ATTACK | {"attack.asr": 0.89}
    found = only_group(record(), screened(0), record(defense=SHRINKPAD), screened(1, metrics=other)).attacks
    assert [row.seeds for row in found] == [2]
    assert shown(found[0], "attack.asr").text == "94.0"


def test_unlike_cells_are_never_averaged() -> None:
    rows = only_group(screened(0), screened(0, defense={"name": "strip", "overlays": 9})).tables[0].blocks[0].rows
    assert [(row.label, row.seeds) for row in rows] == [("strip[overlays=8]", 1), ("strip[overlays=9]", 1)]
    assert len(group([record(), record(profile="paper"), record(dataset={"name": "digits", "size": 8})])) == 3


def test_versions_are_never_mixed_and_each_is_named() -> None:
    """Another release may compute something else under the same name."""

    def by(version: str, seed: int) -> Record:
        environment = record().environment.model_dump() | {"gifthorse": version}
        metrics = ATTACK | {"defense.tpr": 0.5 if version == "0.1.0" else 0.9}
        return screened(seed, environment=environment, metrics=metrics)

    records = [by("0.1.0", 0), by("0.2.0", 0), by("0.2.0", 1)]
    found = {each.version: each for each in group(records)}
    assert set(found) == {"0.1.0", "0.2.0"}
    rows = {version: each.tables[0].blocks[0].rows[0] for version, each in found.items()}
    assert {version: (row.seeds, shown(row, "defense.tpr").text) for version, row in rows.items()} == {
        "0.1.0": (1, "50.0"),
        "0.2.0": (2, "90.0"),
    }
    assert {version: each.attacks[0].seeds for version, each in found.items()} == {"0.1.0": 1, "0.2.0": 2}
    html = page(*records)
    assert all(html.count(f"version {version}") == 1 for version in found)


def test_what_is_good_is_good_for_the_one_that_is_judged() -> None:
    """A defense leaves little of the attack: the arrow beside its ASR points down, the one beside the attack's up."""
    lower = {name for name, metric in METRICS.items() if metric.better == "lower"}
    assert lower >= {"attack.leakage", "attack.cad", "downstream.cad"}
    assert lower >= {"defense.asr", "defense.tmc", "defense.cad", "defense.fpr"}
    higher = {name for name, metric in METRICS.items() if metric.better == "higher"}
    assert higher >= {"benign.acc", "attack.acc", "attack.asr", "attack.tmc", "attack.ccc", "downstream.asr"}
    assert higher >= {"defense.acc", "defense.ard", "defense.tpr", "defense.auroc", "defense.mjs"}
    repaired = ATTACK | {"defense.acc": 0.9, "defense.asr": 0.1, "defense.ard": 0.89, "defense.cad": 0.07}
    heads = re.findall(r"<th[^>]*>(?:(?!</th>).)*</th>", page(record(defense=SHRINKPAD, metrics=repaired)), re.DOTALL)
    arrows = [(re.sub("<[^>]*>", " ", head).split()[0], "↓" in head, "↑" in head) for head in heads]
    assert ("ASR", True, False) in arrows
    assert ("ARD", False, True) in arrows
    assert arrows.count(("ASR", True, False)) == 1


def test_images_that_were_replaced_under_the_same_name_are_a_table_of_their_own() -> None:
    records = [record(data_digest=digest) for digest in ("a" * 24, "b" * 24, None)]
    names = ["digits (images aaaaaaaa)", "digits (images bbbbbbbb)", "digits (images of an older record)"]
    assert [found.dataset for found in group(records)] == names
    assert only_group(records[0], record(seed=1, data_digest="a" * 24)).dataset == "digits"


def test_a_downstream_table_has_a_row_for_each_head_and_tuning_of_each_attack() -> None:
    full, svm = FCN1 | {"tuning": "full"}, {"name": "svm", "tuning": "partial", "share": 1.0}
    records = [tuned(FCN1, 0.9), tuned(FCN1, 0.7, seed=1), tuned(full, 0.3), tuned(svm, 0.6, attack={"name": "wanet"})]
    (table,) = only_group(*records).tables
    rows = {(block.attack, row.label): row for block in table.blocks for row in block.rows}
    labels = ("fcn1[tuning=partial]", "fcn1[tuning=full]", "svm[tuning=partial]")
    assert list(rows) == [(attack, label) for attack in ("badnets", "wanet") for label in labels]
    partial = rows["badnets", "fcn1[tuning=partial]"]
    asr, before = shown(partial, "downstream.asr"), shown(partial, "attack.asr")
    assert (partial.seeds, asr.text, asr.spread, before.text) == (2, "80.0", "70.0–90.0", "99.0")
    assert shown(rows["badnets", "fcn1[tuning=full]"], "downstream.asr").text == "30.0"
    assert [note.status for note in rows["wanet", "fcn1[tuning=full]"].notes] == ["not run"]
    html = page(*records)
    assert "Downstream tuning" in html
    assert "downstream fcn1[tuning=full]" in html
    assert {"downstream.asr", "downstream.cad", "seconds.downstream"} <= {cell["metric"] for cell in cells_of(html)}


def test_other_images_than_the_networks_own_are_named_and_are_another_row() -> None:
    other = {"head": FCN1, "dataset": {"name": "mnist", "size": 16}}
    (table,) = only_group(tuned(FCN1, 0.9), tuned(FCN1, 0.2, downstream=other)).tables
    assert [row.label for row in table.blocks[0].rows] == ["fcn1[tuning=partial]", "fcn1[tuning=partial,dataset=mnist]"]


def test_a_benign_model_says_how_it_was_trained_where_it_is_a_twin() -> None:
    twin = {"name": "none", "trained": {"name": "schedule", "epochs": 3}}
    (row,) = only_group(record(attack=twin)).attacks
    assert row.label == "none[trained=schedule[epochs=3]]"
    (row,) = only_group(record(attack={"name": "none", "trained": None})).attacks
    assert row.label == "none"
    rows = only_group(record(), record(attack=twin), record(attack={"name": "none", "trained": None})).attacks
    assert [row.label for row in rows] == ["none[trained=schedule[epochs=3]]", "none[trained=null]", "badnets"]
    assert page(record(attack=twin)).count("<small>benign model</small>") == 1


def test_downstream_cells_are_in_no_other_row_and_without_them_there_is_no_table() -> None:
    plain, defended, other = record(), screened(0), tuned(FCN1, 0.5, metrics=ATTACK | {"attack.asr": 0.2})
    found = only_group(other, plain, defended)
    assert shown(found.attacks[0], "attack.asr").records == (plain.id,)
    assert found.attacks[0].seeds == 1
    family, downstream = found.tables
    assert (family.about.name, downstream.about.name) == ("filtering", "downstream")
    assert [row.records for row in family.blocks[0].rows] == [(defended.id,)]
    assert [row.records for row in downstream.blocks[0].rows] == [(other.id,)]
    assert [table.about.name for table in only_group(plain, defended).tables] == ["filtering"]
    assert "Downstream tuning" not in page(plain, defended)


def test_a_downstream_cell_that_failed_says_why() -> None:
    html = page(tuned(FCN1, 0.5), tuned(FCN1, 0, seed=1, status="failed", reason="ValueError: one class", metrics={}))
    assert "seed 1: ValueError: one class" in html


def test_a_network_of_a_librarys_goes_by_its_own_name() -> None:
    one, two = ({"name": "torchvision", "arch": arch} for arch in ("resnet50", "vgg11"))
    found = group([record(model=one), record(model=two), record(model={"name": "timm", "arch": "vit", "img_size": 32})])
    assert [each.model for each in found] == ["torchvision/resnet50", "torchvision/vgg11", "timm/vit"]
    assert "--model 'torchvision[arch=resnet50]'" in command(record(model=one).model_dump())


def test_a_defense_that_never_finished_stands_in_its_familys_table() -> None:
    (table,) = only_group(record(defense={"name": "fine_pruning"}, status="failed", reason="x", metrics={})).tables
    assert table.about == FAMILIES["sanitization"]


def test_a_defense_without_its_family_is_no_record() -> None:
    with pytest.raises(ValueError, match="family"):
        record(family="filtering")


def test_a_family_and_a_metric_of_ones_own_are_a_line_each() -> None:
    metric = Metric("defense.purity", "purity of the cluster", "filter", NORM, True, "how pure it is", short="Purity")
    family = Family("clustering", "Training set filtering", "Looks for two clusters.", ("attack.asr", metric.name))
    METRICS.add(metric)
    FAMILIES.add(family)
    try:
        html = page(record(defense=STRIP, family="clustering", metrics=ATTACK | {"defense.purity": 0.123}))
    finally:
        del METRICS[metric.name], FAMILIES[family.name]
    assert "Looks for two clusters." in html
    headings = re.findall(r'<abbr title="([^"]*)">(Purity|ASR|ASR before)</abbr><small>', html)
    assert [heading for _, heading in headings] == ["ASR", "ASR before", "Purity"]
    assert headings[2][0] == "purity of the cluster: how pure it is"
    assert '<th scope="row">purity of the cluster</th>' in html


def test_what_this_program_does_not_know_is_shown_as_it_is() -> None:
    html = page(
        record(
            defense={"name": "later"},
            family="of_tomorrow",
            metrics=ATTACK | {"defense.novel": 12.5, "defense.novel_list": [1.0], "defense.aiv_novel": 3.0},
            seconds={"defense": 1.0, "unheard": 2.0, "attack": None},
        )
    )
    shown = {(cell["metric"], cell["text"]) for cell in cells_of(html)}
    assert {("defense.novel", "12.50"), ("defense.aiv_novel", "3.00")} <= shown
    assert '<h3 id="of_tomorrow-1">of_tomorrow</h3>' in html
    assert "defense 1.0 s · seconds.unheard 2.0 s" in html


def test_every_true_target_is_marked_and_none_where_the_record_names_none() -> None:
    masks = np.arange(1.0, 41).reshape(40, 1, 1, 1)
    evidence = {"masks": masks, "patterns": np.full((40, 1, 1, 1), 200, np.uint8)}

    def drawn(*targets: float) -> str:
        metrics = {"defense.suspect_class": 0, **({"attack.targets": list(targets)} if targets else {})}
        return render([ReportCell(record(defense=CLEANSE, metrics=metrics), evidence)])

    several = drawn(3, 35)
    assert "▲ true targets: classes 3, 35." in several
    assert several.count('Z" fill="var(--ink') == 2
    assert {">3 ▲<", ">35 ▲<"} <= set(re.findall(r">\d+ ▲<", several))
    assert "▲ true targets: all classes." in drawn(*range(40))
    assert "▲" not in drawn()


def test_stages_that_did_not_run_may_be_null_in_old_records() -> None:
    text = record().to_json().replace('"seconds": {}', '"seconds": {"benign": 1.5, "defense": null}')
    assert Record.from_json(text).seconds == {"benign": 1.5}
    older = re.sub(r' "(command|counts)": [^\n]*\n', "", text)
    assert "counts" not in older
    assert (Record.from_json(older).counts, Record.from_json(older).command) == ({}, None)
    with pytest.raises(ValueError, match="seconds"):
        Record.from_json(text.replace("1.5", '"long"'))


def test_no_hole_is_silent() -> None:
    html = page(
        screened(0),
        screened(1, status="failed", reason="RuntimeError: out of memory", metrics={}),
        screened(
            0, attack={"name": "wanet"}, status="skipped", reason="needs 28 clean images; there are 10", metrics=ATTACK
        ),
        record(attack={"name": "blended"}),
        record(attack={"name": "lira"}, status="failed", reason="ValueError: diverged", metrics={}),
        record(defense={"name": "dhbe"}, status="failed", reason="KeyError: 'x'", metrics={}),
    )
    for text in (
        "seed 1: RuntimeError: out of memory",
        "seed 0: needs 28 clean images; there are 10",
        "ValueError: diverged",
    ):
        assert text in html
    assert "KeyError: &#39;x&#39;" in html
    notes = re.findall(r'<td class="note" colspan="\d+"><strong class="[a-z-]+">([a-z ]+)</strong>', html)
    # Two attacks never met strip, four never met dhbe less the one that failed.
    assert notes.count("not run") == 2 + 3
    assert notes.count("skipped") == 1


def test_no_defense_gets_credit_against_an_attack_that_did_not_take() -> None:
    weak = {"attack.valid": False, "attack.asr": 0.3}
    invalid = screened(1, metrics=screened(1).metrics | weak, doubts=["success rate 0.300, under 0.8", "<leaks>"])
    row = only_row(invalid)
    assert row.doubt == "did not take"
    assert only_row(screened(0), invalid).doubt == "took in 1 of 2 seeds"
    html = page(invalid)
    assert "no defense gets credit</small>" in html
    assert "did not take<br>seed 1: success rate 0.300, under 0.8; &lt;leaks&gt;</small>" in html
    assert html.count('<tr class="doubtful">') == 2
    assert 'class="doubtful"' not in page(screened(0))


def test_a_metric_that_does_not_apply_is_a_dash_and_never_a_zero() -> None:
    benign = screened(attack={"name": "none"}, metrics={"attack.acc": 0.9, "defense.fpr": 0.05})
    html = page(benign)
    assert "does not apply" in html
    assert {cell["metric"] for cell in cells_of(html)} == {"attack.acc", "defense.fpr", "seconds.defense_per_input"}


@pytest.mark.parametrize("count", [1, 40])
def test_a_report_unfolds_where_it_is_short(count: int) -> None:
    html = page(*(screened(seed) for seed in range(count)))
    assert ('<details class="cell" open>' in html) == (count == 1)


def test_missing_or_empty_evidence_is_left_out() -> None:
    empty: dict[str, np.ndarray] = {
        "clean": np.zeros((0, 1, 4, 4), np.uint8),
        "clean_scores": np.zeros(3),
        "masks": np.zeros((2, 1, 4, 4)),
    }
    cells = [ReportCell(record(defense=CLEANSE)), ReportCell(screened(0), empty), ReportCell(record(), {})]
    html = render(cells)
    assert "<img" not in html
    assert "There are no cells" in render([])


def test_charts_bear_odd_numbers() -> None:
    for values in ([0.0], [1.0, 1.0], [-3.0, 2.0, float("nan")], [float("inf"), 1.0], list(range(200))):
        svg = bar_chart(values, "norm", suspect=0, targets=[len(values) - 1])
        assert "nan" not in svg
        assert svg.count("<rect ") == len(values)
    score = np.array([-0.5, -0.5, np.nan])
    evidence = {"clean_scores": score, "stamped_scores": score[:0], "threshold": np.array([-0.5])}
    assert "threshold -0.5" in render([ReportCell(screened(0), evidence)])


@pytest.mark.parametrize("odd", [np.nan, np.inf, -np.inf, 3e38])
def test_whatever_the_store_holds_is_drawn(odd: float) -> None:
    """A model that diverged once left scores, a threshold and masks that are no numbers."""
    broken, sound = np.full(4, odd, np.float32), np.array([0.1, 0.4, 0.2, -3e38], np.float32)
    masks, patterns = np.full((3, 1, 4, 4), odd, np.float32), np.zeros((3, 1, 4, 4), np.uint8)
    found: dict[str, Any] = {"defense.scores": [1.0, 2.0], "defense.held_out_asr": [0.5], "defense.suspect_class": 9}
    inspected = record(defense=CLEANSE, metrics=ATTACK | found)
    for clean, stamped, threshold in [
        (broken, broken, odd),
        (broken, sound, odd),
        (sound, sound, odd),
        (broken, sound, 0),
    ]:
        evidence = {"clean_scores": clean, "stamped_scores": stamped, "threshold": np.array(threshold)}
        html = render(
            [ReportCell(screened(0), evidence), ReportCell(inspected, {"masks": masks, "patterns": patterns})]
        )
        assert not re.search(r'(?:x|y|d|width|height)="[^"]*(?:nan|inf)', html)
        finite = any(np.isfinite(part).any() for part in (clean, stamped))
        assert ("Scores of clean and stamped images" in html) is finite
    for count in (0, 2):
        assert render([ReportCell(inspected, {"masks": masks[:count], "patterns": patterns})])


def test_recovered_triggers_are_mask_times_pattern() -> None:
    masks = np.array([0.5, np.nan]).reshape(2, 1, 1, 1)
    patterns = np.full((2, 3, 1, 1), 200, np.uint8)
    assert recovered_triggers(masks, patterns)[:, 0, 0, 0].tolist() == [100, 0]


def watched(monkeypatch: pytest.MonkeyPatch, chart: str) -> list[tuple[Any, ...]]:
    """What a kind of chart is asked to draw, from now on."""
    drawn: list[tuple[Any, ...]] = []

    def draw(*found: Any) -> Markup:
        drawn.append(found)
        return Markup("<svg></svg>")

    monkeypatch.setattr(details, chart, draw)
    return drawn


@pytest.mark.parametrize(
    ("scores", "what"),
    [([-2.0, -4.0], "L1 norm of the recovered mask"), ([0.9, 0.1], "Score (higher is more suspicious)")],
)
def test_the_chart_of_classes_shows_what_the_defense_scores_by(scores: list[float], what: str) -> None:
    masks = np.array([2.0, 4.0]).reshape(2, 1, 1, 1)
    evidence = {"masks": masks, "patterns": np.full((2, 1, 1, 1), 200, np.uint8)}
    metrics = {"defense.scores": scores, "defense.held_out_asr": [0.98, 0.5], "attack.targets": [1.0]}
    html = render([ReportCell(record(defense=CLEANSE, family="inspection", metrics=metrics), evidence)])
    assert f"{what} per class" in html
    assert "No class is suspect. ▲ true target: class 1." in html
    values = [2.0, 4.0] if scores[0] < 0 else scores
    bars = [f"class {label}: {value:.2f}" for label, value in enumerate(values)]
    assert re.findall(r"<title>(class [^<]*)</title>", html) == bars
    assert re.search(rf'aria-label="{re.escape(what)} of 2 classes', html, re.IGNORECASE)
    assert "0: 98%" in html
    assert "1 ▲: 50%" in html


def test_scores_of_clean_and_stamped_images_are_drawn_beside_the_threshold(monkeypatch: pytest.MonkeyPatch) -> None:
    """STRIP's: minus the mean entropy of what an input is mixed to."""
    drawn = watched(monkeypatch, "histograms")
    evidence = {
        "clean_scores": np.array([-2.0, -2.0, -2.0, -1.0]),
        "stamped_scores": np.array([-0.1, -0.1]),
        "threshold": np.array(-0.5),
    }
    html = render([ReportCell(screened(0), evidence)])
    assert "<svg></svg>" in html
    ((panels, threshold, _),) = drawn
    assert [(panel.title, panel.values.tolist()) for panel in panels] == [
        ("clean", [-2.0, -2.0, -2.0, -1.0]),
        ("stamped", [-0.1, -0.1]),
    ]
    assert threshold == -0.5


def test_the_command_line_says_every_field() -> None:
    attack = {
        "name": "badnets",
        "rate": 1e-05,
        "at": [1, 2],
        "word": "top_left",
        "flag": True,
        "nothing": None,
        "odd": 'it\'s 5, [or] "6"',
        "number": "3",
        "truth": "true",
        "spaces": " x ",
        "empty": "",
    }
    cell = record(attack=attack, defense=STRIP, seed=7)
    words = shlex.split(command(cell.model_dump()))
    assert words[:2] == ["gifthorse", "run"]
    options = dict(zip(words[2::2], words[3::2], strict=True))
    assert (options["--seed"], options["--profile"]) == ("7", "smoke")
    for option, configuration in {"--attack": attack, "--defense": STRIP, "--dataset": cell.dataset}.items():
        name, fields = split_request(options[option])
        assert {"name": name, **fields} == configuration
    assert bracket(attack).startswith("badnets[rate=1e-05,at=[1,2],word=top_left,flag=true,nothing=null,")
    assert "--defense" not in command(record().model_dump())
    assert "--downstream" not in command(record().model_dump())
    again = command(tuned(FCN1, 0.5).model_dump())
    assert "--downstream 'fcn1[tuning=partial,share=1.0]'" in again
    assert "--downstream-dataset 'digits[size=16]'" in again
    assert "gifthorse run \\\n  --dataset &#39;digits[size=16]&#39; \\\n  --model" in page(cell)


def test_reports_are_made_without_torch() -> None:
    code = "import sys, gifthorse.report.html; print({'torch', 'torchvision'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout == "set()\n"
