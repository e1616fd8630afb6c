"""Records become tables without losing, inventing or mistaking a number, and nothing in them becomes markup."""

import base64
import hashlib
import html as markup
import re
import shlex
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from markupsafe import Markup

from gifthorse.core.command import bracket, command
from gifthorse.core.configuration import split_request
from gifthorse.core.family import FAMILIES, Family
from gifthorse.core.metric import METRICS, NORM, Metric
from gifthorse.core.record import Member, Population, Record
from gifthorse.report import details
from gifthorse.report.cells import ReportCell
from gifthorse.report.figures import bar_chart, recovered_triggers
from gifthorse.report.html import MANY_CELLS, render, render_split
from gifthorse.report.overview import Overview, Square, overview_of
from gifthorse.report.pictures import Pictures
from gifthorse.report.plots import roc_points
from gifthorse.report.tables import Group, Row, group, measure
from records import BADNETS, bare, model
from records import population as any_population

HOSTILE = "</td></style><script>alert(1)</script><img src=x onerror=alert(2)>\"'&{{ 7*7 }}"
ATTACK = {"attack.acc": 0.97, "attack.ccc": 0.95, "attack.asr": 0.99, "attack.cad": 0.01, "attack.valid": True}
STRIP = {"name": "strip", "overlays": 8}
SHRINKPAD = {"name": "shrinkpad", "shrink": 2}
CLEANSE = {"name": "neural_cleanse", "steps": 30}
FCN1 = {"name": "fcn1", "tuning": "partial", "share": 1.0}


def record(**changes: Any) -> Record:
    return bare(**{"profile": "smoke", "metrics": ATTACK} | changes)


def population(benign: list[Member], trojaned: list[Member], **changes: Any) -> Population:
    return any_population(benign, trojaned, **{"profile": "smoke"} | changes)


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


def with_evidence(found: Record, evidence: Mapping[str, np.ndarray]) -> ReportCell:
    return ReportCell(found, lambda: evidence)


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
            with_evidence(
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
        [
            population(
                [model(1.0)],
                [model(2.0, id=HOSTILE, target=0)],
                id=HOSTILE,
                dataset=hostile,
                model=hostile,
                attack=hostile,
                defense=hostile,
                index=HOSTILE,
                readouts={HOSTILE: {"auroc": 0.5}},
                left_out=[{"id": HOSTILE, "group": "benign", "seed": 1, "status": "failed", "reason": HOSTILE}],
            )
        ],
        title=HOSTILE,
    )
    assert html.count("<script") == html.count("</script") == 1
    assert "<img" not in html
    assert "49" not in re.findall(r"<h1>.*?</h1>", html)[0]
    assert html.count("</style>") == 2
    for _, split in render_split([ReportCell(record(attack=hostile, class_names=[HOSTILE]))], title=HOSTILE):
        assert (split.count("<script"), split.count("</style>"), split.count("<img")) == (1, 2, 0)


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


AMPLIFIED = {"name": "amplified", "copies": 9}


def test_varied_triggers_have_a_table_of_their_own_and_rows_of_their_own_after_a_defense() -> None:
    numbers = {"stamp.asr": 0.8, "stamp.tmc": 0.7, "stamp.benign_asr": 0.1}
    alone = record(stamp=AMPLIFIED, metrics=ATTACK | numbers)
    plain, after = screened(0), screened(0).model_copy(update={"id": "f" * 24, "stamp": AMPLIFIED})
    found = only_group(record(), alone, plain, after)
    family, varied = found.tables
    assert [(row.label, row.records) for row in family.blocks[0].rows] == [
        ("strip", (plain.id,)),
        ("strip, amplified", (after.id,)),
    ]
    (row,) = varied.blocks[0].rows
    assert (varied.about.name, row.label, row.records) == ("stamp", "amplified", (alone.id,))
    assert (shown(row, "attack.asr").text, shown(row, "stamp.asr").text) == ("99.0", "80.0")
    assert "stamp.acc" not in [column.name for column in varied.columns]
    html = page(record(), alone, plain, after)
    assert "Triggers varied at test time" in html
    assert "attack alone, amplified" in html
    assert "trojan, trigger varied: attack success rate" in html


def shifts(*asrs: float, **changes: Any) -> list[Record]:
    """Records of a trigger that was shifted by 1, 2, … pixels."""
    stamps = [{"name": "shifted", "down": by, "right": 0} for by in range(1, len(asrs) + 1)]
    return [
        record(stamp=stamp, metrics=ATTACK | {"stamp.asr": asr, "stamp.acc": 0.25}, **changes)
        for stamp, asr in zip(stamps, asrs, strict=True)
    ]


def test_three_values_of_a_stamp_are_a_curve_below_its_table() -> None:
    html = page(*shifts(0.75, 0.5, 0.0), *shifts(0.25, 0.5, 0.0, seed=1))
    section = html.partition("Triggers varied at test time")[2].partition("Cell by cell")[0]
    (chart,) = re.findall(r'<figure class="chart">.*?</figure>', section, re.DOTALL)
    assert chart.count("<svg") == 1
    assert "badnets, shifted by down, n = 2 seeds" in chart
    assert re.findall(r"</span> ([^,<]+)", chart) == ["ASR", "Accuracy"]
    line = next(path for path in re.findall(r'<path d="([^"]+)"', chart) if path.count(" ") == 4)
    (left, high), (middle, same), (right, ground) = re.findall(r"([\d.]+) ([\d.]+)", line)
    assert float(middle) - float(left) == pytest.approx(float(right) - float(middle), abs=0.2)
    # Means of 0.5, 0.5 and 0; the axis reaches from 170 to 20.
    assert (high, same, ground) == ("95", "95", "170")
    assert [text for text in re.findall(r'middle">([^<]+)<', chart) if text.isdigit()] == ["1", "2", "3"]


def test_two_values_or_what_a_defense_met_are_no_curve() -> None:
    three = shifts(0.75, 0.5, 0.0)
    defended = [each.model_copy(update={"defense": {"name": "flip"}, "family": "reformation"}) for each in three]
    apart = [*shifts(0.75, 0.5), *shifts(0.5, 0.5, 0.0, attack={"name": "blended"})[2:]]
    for records in (three[:2], defended, apart):
        assert '<figure class="chart"><svg' not in page(*records)


def test_the_pictures_of_a_varied_trigger_are_those_that_were_judged() -> None:
    flipped = record(stamp={"name": "flipped"}, metrics=ATTACK | {"stamp.asr": 0.8, "stamp.acc": 0.9})
    pictures = np.zeros((2, 1, 4, 4), np.uint8)
    names = ("clean", "stamped", "varied", "unstamped")
    html = render([ReportCell(flipped, lambda: dict.fromkeys(names, pictures))])
    assert "With the trigger as it was shown here" in html
    assert "Transformed without a trigger" in html


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


def test_the_baseline_of_a_family_comes_first_and_is_missed_where_it_is_missing() -> None:
    """Every sanitizer is read against plain fine-tuning, which may do as much."""
    other = {**BADNETS, "name": "imc"}
    pruning, tuning = {"name": "fine_pruning"}, {"name": "finetuning", "lr": 0.01}
    numbers = {"defense.asr": 0.2, "defense.acc": 0.9, "defense.cad": 0.0, "defense.ard": 0.7}
    records = [
        record(defense=pruning, metrics=numbers),
        record(defense=pruning, metrics=numbers, attack=other),
        record(defense=tuning, metrics=numbers),
        record(defense={**tuning, "lr": 0.1}, status="failed", reason="it diverged", attack=other),
    ]
    table = next(each for each in only_group(*records).tables if each.about.name == "sanitization")
    names = ["finetuning", "finetuning", "fine_pruning"]
    assert [[row.label.partition("[")[0] for row in block.rows] for block in table.blocks] == [names, names]
    assert table.without_baseline == ("imc",)
    sentence = "finetuning, which the others are read against, was not run or gave no numbers for: imc."
    assert sentence in page(*records)
    assert [each.defenses[-1] for each in only_overview(*records).columns] == ["fine_pruning"]
    assert "read against, was not run" not in page(*records[::2])
    strip = record(defense={"name": "strip"}, metrics={"defense.auroc": 0.9})
    assert "read against, was not run" not in page(strip, record(defense=pruning, status="failed", reason="no memory"))


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
        return render([with_evidence(record(defense=CLEANSE, metrics=metrics), evidence)])

    several = drawn(3, 35)
    assert "▲ true targets: classes 3, 35." in several
    (triangles,) = re.findall(r'<path d="([^"]+)" fill="var\(--ink', several)
    assert triangles.count("z") == 2
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
    notes = re.findall(r'<td class="note" colspan="\d+">(?:<a [^>]*>)?<strong class="[a-z-]+">([a-z ]+)<', html)
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
    # In the matrix, among the attacks and in the family's table.
    assert html.count('<tr class="doubtful">') == 3
    assert 'class="doubtful"' not in page(screened(0))


def test_a_metric_that_does_not_apply_is_a_dash_and_never_a_zero() -> None:
    benign = screened(attack={"name": "none"}, metrics={"attack.acc": 0.9, "defense.fpr": 0.05})
    html = page(benign)
    assert "does not apply" in html
    assert {cell["metric"] for cell in cells_of(html)} == {"attack.acc", "defense.fpr", "seconds.defense_per_input"}


@pytest.mark.parametrize("count", [1, 40])
def test_a_report_unfolds_where_it_is_short(count: int) -> None:
    html = page(*(screened(seed) for seed in range(count)))
    (opened,) = {" open>" in tag for tag in re.findall('<details class="cell"[^>]*>', html)}
    assert opened == (count == 1)


def test_missing_or_empty_evidence_is_left_out() -> None:
    empty: dict[str, np.ndarray] = {
        "clean": np.zeros((0, 1, 4, 4), np.uint8),
        "clean_scores": np.zeros(3),
        "masks": np.zeros((2, 1, 4, 4)),
    }
    cells = [ReportCell(record(defense=CLEANSE)), with_evidence(screened(0), empty), with_evidence(record(), {})]
    html = render(cells)
    assert 'class="picture' not in html
    assert "There are no cells" in render([])


def test_charts_bear_odd_numbers() -> None:
    for values in ([0.0], [1.0, 1.0], [-3.0, 2.0, float("nan")], [float("inf"), 1.0], list(range(200))):
        svg = bar_chart(values, "norm", suspect=0, targets=[len(values) - 1])
        assert "nan" not in svg
        assert svg.count("<rect ") == len(values)
    score = np.array([-0.5, -0.5, np.nan])
    evidence = {"clean_scores": score, "stamped_scores": score[:0], "threshold": np.array([-0.5])}
    assert "threshold -0.5" in render([with_evidence(screened(0), evidence)])


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
            [with_evidence(screened(0), evidence), with_evidence(inspected, {"masks": masks, "patterns": patterns})]
        )
        assert not re.search(r'(?:x|y|d|width|height)="[^"]*(?:nan|inf)', html)
        finite = any(np.isfinite(part).any() for part in (clean, stamped))
        assert ("Scores of clean and stamped images" in html) is finite
    for count in (0, 2):
        assert render([with_evidence(inspected, {"masks": masks[:count], "patterns": patterns})])


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
    html = render([with_evidence(record(defense=CLEANSE, family="inspection", metrics=metrics), evidence)])
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
    html = render([with_evidence(screened(0), evidence)])
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


def only_overview(*records: Record) -> Overview:
    found = overview_of(only_group(*records))
    assert found is not None
    return found


def squares(found: Overview) -> dict[tuple[str, str], Square]:
    """Return the squares by attack and defense."""
    return {
        (line.attack.label, square.row.label): square
        for line in found.lines
        for family in line.squares
        for square in family
    }


def inspected(seed: int, flagged: bool, **changes: Any) -> Record:
    verdict = {"defense.index": 3.0, "defense.flagged": flagged, **({"defense.suspect_class": 3} if flagged else {})}
    return record(**{"seed": seed, "defense": CLEANSE, "metrics": ATTACK | verdict} | changes)


def test_the_matrix_has_each_familys_own_number_as_its_table_has_it() -> None:
    repaired = ATTACK | {"defense.acc": 0.9, "defense.asr": 0.2}
    records = [
        screened(0),
        screened(1),
        record(defense=SHRINKPAD, metrics=repaired),
        *(inspected(seed, flagged=seed > 0) for seed in range(3)),
    ]
    found = only_overview(*records)
    headlines = {each.defenses: each.metric.name for each in found.columns}
    assert headlines == {
        ("shrinkpad",): "defense.asr",
        ("strip",): "defense.auroc",
        ("neural_cleanse",): "defense.index",
    }
    by_defense = {defense: square for (_, defense), square in squares(found).items()}
    assert {name: square.value and square.value.text for name, square in by_defense.items()} == {
        "shrinkpad": "20.0",
        "strip": "0.970",
        "neural_cleanse": "3.00",
    }
    assert {name: square.verdict and square.verdict.text for name, square in by_defense.items()} == {
        "shrinkpad": None,
        "strip": None,
        "neural_cleanse": "2 of 3",
    }
    assert '<small class="verdict">flagged 2 of 3</small>' in page(*records)
    for table in only_group(*records).tables:
        (row,) = table.blocks[0].rows
        assert by_defense[row.label].value in row.values


def test_the_matrix_credits_a_defense_with_what_it_gains_and_none_without_a_backdoor_that_took() -> None:
    repaired = ATTACK | {"defense.acc": 0.9, "defense.asr": 0.2}
    weak = {"attack": {"name": "wanet"}, "metrics": screened(0).metrics | {"attack.valid": False}}
    benign = {"attack": {"name": "none"}, "metrics": {"attack.acc": 0.9, "defense.index": 2.5, "defense.flagged": True}}
    found = squares(
        only_overview(
            screened(0),
            record(defense=SHRINKPAD, metrics=repaired),
            *(inspected(seed, flagged=seed > 0) for seed in range(3)),
            screened(0, **weak),
            record(defense=CLEANSE, **benign),
        )
    )
    credited = {pair: square.credit for pair, square in found.items() if square.credit is not None}
    assert credited == {
        ("badnets", "shrinkpad"): pytest.approx(0.8),
        ("badnets", "strip"): pytest.approx(0.97),
        ("badnets", "neural_cleanse"): pytest.approx(2 / 3),
    }
    weakly, flagged = found["wanet", "strip"].value, found["none", "neural_cleanse"].value
    assert weakly is not None
    assert flagged is not None


def test_the_matrix_marks_and_explains_every_gap() -> None:
    reason = "needs 28 clean images; there are 10"
    skipped = {"status": "skipped", "reason": reason, "metrics": ATTACK}
    records = [
        screened(0),
        screened(1, status="failed", reason="RuntimeError: out of memory", metrics={}),
        *(screened(seed, attack={"name": "wanet"}, **skipped) for seed in (0, 1)),
        screened(0, defense=SHRINKPAD, **skipped),
    ]
    found = only_overview(*records)
    assert found.footnotes == (("skipped", reason), ("failed", "RuntimeError: out of memory"))
    marks = {
        pair: [(mark.status, mark.cells, mark.footnotes) for mark in square.marks]
        for pair, square in squares(found).items()
    }
    assert marks == {
        ("badnets", "shrinkpad"): [("skipped", 1, (1,))],
        ("badnets", "strip"): [("failed", 1, (2,))],
        ("wanet", "shrinkpad"): [("not run", 1, ())],
        ("wanet", "strip"): [("skipped", 2, (1,))],
    }
    assert squares(found)["badnets", "strip"].value is not None
    assert found.statuses == {"skipped", "failed", "not run"}
    html = page(*records)
    assert html.count('<li id="footnote-1-') == 2
    assert set(re.findall(r'href="#(footnote-1-\d)"', html)) == {"footnote-1-1", "footnote-1-2"}
    legend = re.findall(r'<dl class="legend">(.*?)</dl>', html, re.DOTALL)[0]
    assert [word for word in ("did not take", "skipped", "failed", "not run", "–") if f">{word}<" in legend] == [
        "skipped",
        "failed",
        "not run",
    ]


def test_a_family_that_says_no_headline_shows_its_first_number() -> None:
    family = Family("clustering", "Clustering", "Looks for two clusters.", ("defense.tpr", "defense.fpr"))
    FAMILIES.add(family)
    try:
        declared = only_overview(screened(0, family="clustering"))
    finally:
        del FAMILIES[family.name]
    assert declared.columns[0].metric.name == "defense.tpr"
    assert only_overview(screened(0, family="of_tomorrow")).columns[0].metric.name == "defense.tpr"
    assert only_overview(record(defense=STRIP, family="of_tomorrow", status="failed", reason="x", metrics={})).columns


def test_without_defenses_there_is_no_matrix() -> None:
    assert overview_of(only_group(record(), tuned(FCN1, 0.5))) is None


def test_classes_go_by_number_and_name() -> None:
    names = ["airplane", "automobile", "bird", "cat"]
    masks = np.arange(1.0, 5).reshape(4, 1, 1, 1)
    evidence = {"masks": masks, "patterns": np.full((4, 1, 1, 1), 200, np.uint8)}
    metrics = inspected(0, True).metrics | {"attack.targets": [1.0]}
    one, two = (inspected(seed, True, metrics=metrics, class_names=names) for seed in (0, 1))
    other = inspected(2, True, metrics=metrics | {"defense.suspect_class": 0}, class_names=names)
    assert shown(only_row(one, two, other), "defense.suspect_class").text == "0 (airplane), 3 (cat)"
    assert shown(only_row(one), "defense.suspect_class").raw == "3.0"
    assert only_group(one).attacks[0].targets == "target 1 (automobile)"
    html = render([with_evidence(one, evidence)])
    for text in (
        "Suspect: class 3 (cat), highlighted.",
        "▲ true target: class 1 (automobile).",
        "<figcaption>1 (automobile) ▲</figcaption>",
        "seed 0, target 1 (automobile)",
        "Index 3.00, flagged, suspect 3 (cat)",
        "<dd>3 (cat)</dd>",
        "Classes 0 (airplane), 1 (automobile), 2 (bird), 3 (cat)",
    ):
        assert text in html
    assert "Classes " not in page(record(class_names=["0", "1"]))


def test_what_is_drawn_many_times_is_kept_once() -> None:
    random = np.random.default_rng(0)
    clean, stamped, reformed = random.integers(0, 256, (3, 8, 1, 4, 4), np.uint8)
    cells = [
        with_evidence(record(seed=seed, defense=SHRINKPAD), {"clean": clean, "stamped": stamped, "reformed": reformed})
        for seed in range(5)
    ]
    html = render(cells)
    # Of each trojan the clean and the stamped ones, of each cell the stamped and the reformed ones.
    assert html.count('<span role="img" class="picture') == 5 * 4
    assert html.count("url(data:image/") == 3
    used, ruled = set(re.findall(r'class="picture (p\d+)"', html)), set(re.findall(r"^\.(p\d+)\{", html, re.MULTILINE))
    assert used == ruled
    assert len(used) == 3


def test_maps_of_what_explains_answers_stand_below_the_images_that_they_are_of() -> None:
    pictures = np.random.default_rng(0).integers(0, 256, (4, 8, 1, 4, 4), np.uint8)
    names = ("clean", "clean_heat", "stamped", "stamped_heat")
    html = render([with_evidence(record(), dict(zip(names, pictures, strict=True)))])
    rows = ("Clean test images", "answers to these come from", "Stamped with the trigger", "answers to these come from")
    place = 0
    for row in rows:
        place = html.index(row, place) + 1
    assert html.count('<span role="img" class="picture') == 4


def test_a_file_of_many_cells_shows_fewer_pictures_of_each_and_its_pages_all() -> None:
    clean = np.random.default_rng(0).integers(0, 256, (8, 1, 4, 4), np.uint8)
    found = {"masks": np.arange(1.0, 11).reshape(10, 1, 1, 1), "patterns": np.full((10, 1, 1, 1), 9, np.uint8)}
    metrics = ATTACK | {"defense.suspect_class": 9, "attack.targets": [8.0]}

    def recovered(count: int) -> list[int]:
        cells = [
            with_evidence(record(seed=seed, defense=CLEANSE, metrics=metrics), {"clean": clean, **found})
            for seed in range(count)
        ]
        pages = [render(cells), *(html for name, html in render_split(cells) if name != "index.html")]
        return [html.count("recovered trigger, ") // count for html in pages]

    assert recovered(1) == [10, 10]
    # The four smallest, the suspect's and the target's.
    assert recovered(MANY_CELLS + 1) == [6, 10]


@pytest.mark.parametrize(
    ("suspect", "target", "more"),
    [
        (None, None, ""),
        (None, 1, ""),
        (0, 1, ""),
        (None, 4, " and the target’s"),
        (3, None, " and the suspect’s"),
        (3, 0, " and the suspect’s"),
        (3, 4, " and the suspect’s and the target’s"),
        (4, 4, " and the suspect’s and the target’s"),
    ],
)
def test_the_caption_of_recovered_triggers_says_which_are_shown(
    suspect: int | None, target: int | None, more: str
) -> None:
    evidence = {"masks": np.arange(1.0, 6).reshape(5, 1, 1, 1), "patterns": np.full((5, 1, 1, 1), 9, np.uint8)}
    known = {"defense.suspect_class": suspect, "attack.targets": None if target is None else [float(target)]}
    metrics = ATTACK | {name: value for name, value in known.items() if value is not None}
    cell = with_evidence(record(defense=CLEANSE, metrics=metrics), evidence)
    extent = details.Extent(pictures=1, triggers=2, maps=1, points=9)
    ((found,),) = (each.cells for each in details.trojans([cell], details.Lines([cell.record]), Pictures(), extent))
    assert found.triggers_caption == f"Recovered mask × pattern of each class; the 2 smallest of 5{more}"
    shown = {0, 1, *(each for each in (suspect, target) if each is not None)}
    assert [each.caption for each in found.triggers] == [
        f"{each} ▲" if each == target else str(each) for each in sorted(shown)
    ]
    assert [each.marked for each in found.triggers] == [each == suspect for each in sorted(shown)]


def test_evidence_is_read_once_and_not_kept() -> None:
    alive: list[int] = []
    read: list[str] = []

    class Arrays(dict[str, np.ndarray]):
        def __init__(self, identity: str):
            super().__init__(clean=np.zeros((1, 1, 4, 4), np.uint8))
            read.append(identity)
            alive.append(1)

        def __del__(self) -> None:
            alive.pop()

    most = 0

    def evidence(identity: str) -> Arrays:
        nonlocal most
        made = Arrays(identity)
        most = max(most, len(alive))
        return made

    records = [screened(seed) for seed in range(6)]
    render([ReportCell(each, lambda each=each: evidence(each.id)) for each in records])  # type: ignore[misc]
    assert sorted(read) == sorted(each.id for each in records)
    assert most <= 2


def test_a_population_is_a_row_with_its_intervals_its_curve_and_what_was_left_out() -> None:
    reason = "the attack did not take: success rate 0.300, under 0.8"
    left = [{"id": "gone", "group": "trojaned", "seed": 2, "status": "done", "reason": reason}]
    names = ["airplane", "automobile", "bird", "cat"]
    member = inspected(0, True, class_names=names)
    found = population(
        [model(1.0, flagged=False), model(2.5, flagged=True, seed=1)],
        [model(3.0, id=member.id, target=3, flagged=True, hit=True)],
        auroc=0.75,
        auroc_interval=(0.25, 0.9),
        flagged_benign=0.5,
        flagged_trojaned=1.0,
        suspect_hit_rate=1.0,
        suspect_hit_rate_interval=(0.025, 1.0),
        readouts={"defense.aiv_log": {"auroc": 0.625, "auroc_interval": (0.1, 0.8)}},
        left_out=left,
    )
    html = render([ReportCell(member)], [found])
    for text in (
        'data-value="0.75">0.750<small>0.250–0.900</small>',
        'data-value="0.625">0.625<small>0.100–0.800</small>',
        'data-value="0.5">50.0</td>',
        'data-value="1.0">100.0<small>2.5–100.0</small>',
        "A TPR at an FPR of 0.05 takes 20 benign models.",
        "n too small: 10 benign models would do",
        f"trojaned seed 2: {reason}",
        "<td>3 (cat)</td>",
        "1 trojaned models against 2 benign, AUROC 0.750",
        "a target of its own for each model",
        '<a href="#cell-1">trojaned</a>',
    ):
        assert text in html, text
    # In a square of 250 pixels whose corner is at (52, 260): straight up, then right; the own threshold is at (0.5, 1).
    (curve,) = re.findall(r'<svg[^>]*aria-label="ROC curve.*?</svg>', html)
    assert 'd="M52 260L52 10 302 10" fill="none"' in curve
    assert curve.count('d="M177 10h0" stroke="var(--clean') == 1


def test_a_store_of_populations_alone_is_a_report() -> None:
    found = population([model(1.0)], [model(2.0)], auroc=1.0)
    html = render([], [found])
    assert "1 population · 2" in html
    assert "neural_cleanse" in html
    assert "There are no cells" not in html
    assert [name for name, _ in render_split([], [found])] == ["index.html"]
    empty = population([], [], index=None)
    assert "ROC curve" in html
    assert "ROC curve" not in render([], [empty])


def test_trojans_of_a_population_that_varies_the_target_are_in_no_other_table() -> None:
    trojaned = [inspected(seed, True, attack=BADNETS | {"target": seed}) for seed in range(3)]
    benign = [inspected(seed, False, attack={"name": "none"}, metrics={"attack.acc": 0.9}) for seed in range(2)]
    found = population([model(1.0, id=each.id) for each in benign], [model(2.0, id=each.id) for each in trojaned])
    (alone,) = group([*benign, *trojaned], [found])
    assert (alone.attacks, alone.tables, len(alone.apart), len(alone.records)) == ((), (), 5, 5)
    other = screened(0, attack=BADNETS | {"target": 1})
    (beside,) = group([*benign, *trojaned, other], [found])
    # What also met another defense is a row as ever, with every cell of it.
    assert [row.label for row in beside.attacks] == ["none", "badnets[target=1]"]
    assert {each.id for each in beside.apart} == {trojaned[0].id, trojaned[2].id}
    (same,) = group([*benign, *trojaned], [found.model_copy(update={"varied_target": False})])
    assert len(same.attacks) == 4
    html = render([ReportCell(each) for each in (*benign, *trojaned)], [found])
    assert html.count('<details class="cell"') == 5
    assert "5 models of populations" in html


def test_a_population_stands_with_the_images_of_its_models() -> None:
    first, second = record(data_digest="a" * 24), record(data_digest="b" * 24)
    groups = group([first, second], [population([model(1.0, id=second.id)], [])])
    assert [(each.dataset, len(each.populations)) for each in groups] == [
        ("digits (images aaaaaaaa)", 0),
        ("digits (images bbbbbbbb)", 1),
    ]


def test_the_area_under_the_curve_is_the_share_of_pairs_in_order() -> None:
    random = np.random.default_rng(0)
    for _ in range(50):
        negative, positive = (random.integers(0, 6, random.integers(1, 9)).astype(float) for _ in range(2))
        pairs = [(above > below) + (above == below) / 2 for above in positive for below in negative]
        false, true = roc_points(negative, positive)
        assert np.trapezoid(true, false) == pytest.approx(np.mean(pairs))
        assert (np.diff([false, true]) >= 0).all()


def test_only_the_reports_own_script_may_run() -> None:
    html = page(record())
    policy = markup.unescape(re.findall(r'http-equiv="Content-Security-Policy" content="([^"]*)"', html)[0])
    (script,) = re.findall(r"<script>(.*?)</script>", html, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    allowed = dict(part.split(" ", 1) for part in policy.split("; "))
    assert allowed["script-src"] == f"'sha256-{digest}'"
    assert allowed["default-src"] == "'none'"
    assert "connect-src" not in allowed


def test_split_a_report_is_an_index_and_a_page_per_attack_that_lead_to_each_other() -> None:
    records = [
        screened(0),
        screened(1),
        screened(0, attack={"name": "../<Wanet>"}),
        record(dataset={"name": "mnist"}),
        record(status="failed", reason="x", metrics={}, attack={"name": "lira"}),
    ]
    pages = dict(render_split([ReportCell(each) for each in records]))
    assert list(pages) == [
        "index.html",
        "attack-001-badnets.html",
        "attack-002-wanet.html",
        "attack-003-lira.html",
        "attack-004-badnets.html",
    ]
    index = pages.pop("index.html")
    assert '<details class="cell"' not in index
    assert index.count("data-cell=") == len(records)
    for href in re.findall(r'href="([^"#]*#[^"]*)"', "".join([index, *pages.values()])):
        name, _, anchor = href.partition("#")
        assert not name or f'id="{anchor}"' in pages[name]
    assert sum(html.count('<details class="cell"') for html in pages.values()) == len(records)
    assert all('<a href="index.html">' in html for html in pages.values())


def test_reports_are_made_without_torch() -> None:
    code = "import sys, gifthorse.report.html; print({'torch', 'torchvision'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout == "set()\n"
