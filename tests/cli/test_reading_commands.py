"""The commands that read a store or tidy it: table, export, ls, rm and gc, as a person at the terminal meets them."""

import csv
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import duckdb
import numpy as np
import pytest
from click.testing import CliRunner, Result

from gifthorse.bench.query import read_records
from gifthorse.bench.store import Store
from gifthorse.cli.main import cli
from gifthorse.core.errors import RequestError, StoreError
from records import BADNETS, CLEANSE, PRUNING, SHRINKPAD, model, population, record, repaired

COMMANDS = ("table", "export", "ls", "rm", "gc")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Two defenses on three seeds of one attack, a failed cell, and artifacts that no record names."""
    kept = Store(tmp_path / "gifthorse-runs")
    for seed in range(3):
        for defense, asr in ((SHRINKPAD, 0.4), (PRUNING, 0.2)):
            kept.save_record(repaired(asr + seed / 100, seed, defense=defense, artifacts={"benign": "needed"}))
    kept.save_record(record(seed=9, defense=CLEANSE, status="failed", reason="ValueError: boom", artifacts={}))
    for key in ("needed", "useless"):
        kept.save_artifact("benign", key, {"a": np.zeros(1000)}, {})
    old = time.time() - 7200
    for path in (kept.root / "artifacts" / "benign").iterdir():
        os.utime(path, (old, old))
    return kept


def call(store: Store, *arguments: str, said: str | None = None) -> Result:
    return CliRunner().invoke(cli, [*arguments, "--store", str(store.root)], input=said)


def out(store: Store, *arguments: str, said: str | None = None) -> str:
    found = call(store, *arguments, said=said)
    assert found.exit_code == 0, found.output
    return found.output


def complaint(store: Store, *arguments: str) -> str:
    found = call(store, *arguments)
    assert isinstance(found.exception, (RequestError, StoreError)), found.output
    return str(found.exception)


def remaining(store: Store) -> list[int]:
    return sorted(each.seed for each in read_records(store.root).records)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_says_what_a_command_does(command: str) -> None:
    found = CliRunner().invoke(cli, [command, "--help"])
    assert found.exit_code == 0
    assert "--store" in found.output
    assert command in CliRunner().invoke(cli, ["--help"]).output


@pytest.mark.parametrize(
    "arguments",
    [
        ["table"],
        ["table", "--interval", "--format", "latex"],
        ["table", "--compare", "shrinkpad", "fp", "--attack", "bn"],
        ["export", "--out", "r.csv"],
        ["export", "--out", "r.parquet"],
        ["ls"],
        ["ls", "--json"],
        ["rm", "--status", "failed", "--yes"],
        ["gc"],
    ],
    ids=" ".join,
)
def test_no_reading_command_imports_torch(arguments: list[str], store: Store) -> None:
    code = "import sys\nfrom gifthorse.cli.main import cli\n"
    code += f"cli.main({arguments!r}, standalone_mode=False)\nprint('torch' in sys.modules, file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code], cwd=store.root.parent, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines()[-1] == "False"


def test_a_table_is_printed_or_written_in_the_format_that_is_asked_for(store: Store, tmp_path: Path) -> None:
    text = out(store, "table")
    assert "41.0 ± 1.0" in text
    assert "failed: ValueError: boom" in text
    assert r"\toprule" in out(store, "table", "--format", "latex")
    assert "| --- |" in out(store, "table", "--format", "markdown")
    for name, found in (("t.tex", r"\toprule"), ("t.md", "| --- |"), ("t.txt", "41.0 ± 1.0"), ("t.csv", "attack")):
        assert "table: " in out(store, "table", "--out", str(tmp_path / name))
        assert found in (tmp_path / name).read_text()
    numbers = json.loads(out(store, "table", "--format", "json"))["numbers"]
    assert {number["metric"] for number in numbers} == {"attack.asr", "defense.asr", "defense.index"}


def test_a_table_has_rows_columns_metrics_and_records_of_ones_choice(store: Store) -> None:
    text = out(
        store,
        *("table", "--rows", "seed", "--columns", "defense", "--metric", "defense.asr", "--metric", "defense.acc"),
        *("--defense", "shrinkpad", "--where", "attack.poison_rate=0.1", "--where", "seed=1", "--where", "seed=2"),
    )
    assert [line.split()[:2] for line in text.splitlines() if line[:1].isdigit()] == [["1", "41.0"], ["2", "42.0"]]


def test_two_defenses_are_compared_on_the_same_models(store: Store) -> None:
    text = out(store, "table", "--compare", "shrinkpad", "fine_pruning")
    assert "Wilcoxon signed-rank test, exact, two-sided" in text
    assert "0.2500 [a]" in text
    for other in ("fine_pruning", "fp"):
        (number,) = json.loads(out(store, "table", "--compare", "shrinkpad", other, "--format", "json"))["numbers"]
        assert (number["n"], number["difference"]) == (3, pytest.approx(0.2))


@pytest.fixture
def variants(tmp_path: Path) -> Store:
    """One attack at three rates and in two variants, over two seeds."""
    kept = Store(tmp_path / "variants")
    for seed in range(2):
        for rate, asr, cad in ((0.01, 0.2, 0.0), (0.1, 0.6, 0.005), (0.3, 1.0, 0.02)):
            for origin, more in (("benign", 0.0), ("scratch", 0.1 + seed / 100)):
                attack = BADNETS | {"poison_rate": rate, "origin": origin}
                kept.save_record(
                    record(attack=attack, seed=seed, metrics={"attack.asr": asr - more, "attack.cad": cad})
                )
    return kept


def test_two_variants_of_an_attack_are_compared_with_the_same_seeds(variants: Store) -> None:
    """A name alone means all that the other does not."""
    given = ["table", "--where", "attack.poison_rate=0.1", "--format", "json", "--compare"]
    numbers = json.loads(out(variants, *given, "badnets", "badnets[origin=scratch]"))["numbers"]
    assert [each["metric"] for each in numbers] == ["attack.asr", "attack.cad"]
    assert numbers[0]["first"] == "badnets[origin=benign]"
    assert (numbers[0]["n"], numbers[0]["difference"]) == (2, pytest.approx(0.105))
    other = json.loads(out(variants, *given, "badnets[origin=scratch]", "badnets"))["numbers"]
    assert other[0]["difference"] == pytest.approx(-0.105)
    assert "2 attacks are meant" not in out(
        variants, *given[:-1], "--compare", *(f"badnets[origin={each}]" for each in ("benign", "scratch"))
    )
    assert "attacks are meant" in complaint(variants, "table", "--compare", "badnets", "badnets[origin=scratch]")


def test_the_area_under_accuracy_against_success_is_a_table(variants: Store) -> None:
    text = out(variants, "table", "--leverage", "attack.poison_rate")
    assert "0.375" in text
    assert "badnets[origin=scratch]" in text
    assert r"\toprule" in out(variants, "table", "--leverage", "attack.poison_rate", "--format", "latex")
    assert out(variants, "table", "--leverage", "attack.poison_rate", "--format", "csv").startswith("dataset,model")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ["table", "--metric", "asr"],
            "'asr' may be benign.asr, attack.asr, defense.asr, downstream.asr, stamp.asr: say which",
        ),
        (["table", "--metric", "defense.asrr"], "did you mean 'defense.asr'"),
        (["table", "--rows", "attack.poison_rat"], "did you mean 'attack.poison_rate'"),
        (["table", "--dataset", "minst"], "no record has dataset=minst; there is: digits"),
        (["table", "--where", "seed"], "--where seed is not of the form column=value"),
        (["table", "--out", "t.pdf"], "cannot tell the format from 't.pdf'"),
        (["table", "--compare", "shrinkpad", "none"], "--compare takes two defenses"),
        (["table", "--compare", "badnets", "none"], "--compare takes two attacks"),
        (["table", "--compare", "bn", "benign"], "--compare takes two attacks"),
        (["table", "--compare", "badnets", "shrinkpad"], "no record has attack=shrinkpad"),
        (["table", "--compare", "nope", "badnets"], "no record has attack=nope; there is:"),
        (["table", "--leverage", "attack"], "'attack' is no field that a curve can run along"),
        (["table", "--leverage", "attack.poison_rate", "--rows", "seed"], "--leverage has rows and columns of its own"),
        (["table", "--compare", "shrinkpad", "nope"], "no record has defense=nope"),
        (["table", "--compare", "shrinkpad", "fine_pruning", "--columns", "seed"], "--compare has columns of its own"),
        (["export", "--out", "r.xlsx"], "'r.xlsx'"),
        (["rm"], "say which records to remove"),
        (["rm", "--all", "--seed", "0"], "say which records to remove"),
        (["ls", "--seed", "77"], "no record has seed=77; there is: 0, 1, 2, 9"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_wrong_request_is_an_error_that_helps(arguments: list[str], said: str, store: Store) -> None:
    assert said in complaint(store, *arguments)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["ls", "--defense", "strip"], "no record has defense=strip; there is: none"),
        (["table", "--where", "analysis=nsr"], "no record has analysis=nsr; there is: none"),
        (
            ["table", "--compare", "foo", "bar"],
            "called 'foo' or 'bar'; there is: badnets, small_cnn, standard",
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_a_store_has_none_of_is_said_with_what_there_is(arguments: list[str], said: str, variants: Store) -> None:
    assert complaint(variants, *arguments).endswith(said)


@pytest.mark.parametrize("command", [["table"], ["export", "--out", "r.csv"], ["ls"], ["rm", "--all"], ["gc"]])
def test_without_a_store_or_records_one_sentence_says_so(command: list[str], tmp_path: Path) -> None:
    assert "there is no store at" in complaint(Store(tmp_path / "none"), *command)
    if command != ["gc"]:
        (tmp_path / "empty").mkdir()
        assert "holds no records; 'gifthorse quickstart'" in complaint(Store(tmp_path / "empty"), *command)


def test_a_damaged_record_does_not_keep_the_others_from_being_shown(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    store.record_path("broken").write_text("{")
    assert "41.0 ± 1.0" in out(store, "table")
    assert "1 damaged" in caplog.text


def test_a_store_of_a_newer_program_is_refused(store: Store) -> None:
    document = json.loads(record(id="newer").to_json())
    store.record_path("newer").write_text(json.dumps(document | {"schema": 2}))
    for command in (["table"], ["ls"], ["gc"], ["rm", "--all"]):
        assert "its records have schema 2, this one reads 1" in complaint(store, *command)


def test_export_writes_every_record_flat(store: Store, tmp_path: Path) -> None:
    assert "export: " in out(store, "export", "--out", str(tmp_path / "r.csv"), "--status", "done")
    with (tmp_path / "r.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 6
    assert {row["attack.poison_rate"] for row in rows} == {"0.1"}
    out(store, "export", "--out", str(tmp_path / "r.parquet"))
    query = f"SELECT count(*), avg(\"metrics.defense.asr\") FROM '{tmp_path / 'r.parquet'}'"
    assert duckdb.execute(query).fetchall() == [(7, pytest.approx(0.31))]


def test_ls_lists_records_with_their_sizes(store: Store) -> None:
    text = out(store, "ls", "--defense", "shrinkpad")
    assert text.count("shrinkpad") == 3
    assert "3 records" in text
    assert "benign: 2, 16." in text
    listed = json.loads(out(store, "ls", "--status", "failed", "--json"))
    assert [(each["seed"], each["reason"], each["defense"]["name"]) for each in listed] == [
        (9, "ValueError: boom", "neural_cleanse")
    ]
    assert listed[0]["bytes"] == store.record_path(listed[0]["id"]).stat().st_size


def test_rm_shows_what_goes_and_asks_first(store: Store) -> None:
    refused = out(store, "rm", "--status", "failed", said="n\n")
    assert "neural_cleanse" in refused
    assert "Remove 1 records (" in refused
    assert "nothing was removed" in refused
    assert remaining(store) == [0, 0, 1, 1, 2, 2, 9]
    assert "removed 1 records" in out(store, "rm", "--status", "failed", said="y\n")
    assert remaining(store) == [0, 0, 1, 1, 2, 2]
    assert "Remove" not in out(store, "rm", "--seed", "0", "--defense", "shrinkpad", "--yes")
    assert remaining(store) == [0, 1, 1, 2, 2]
    assert "removed 5 records" in out(store, "rm", "--all", "--yes")
    assert {path.name for path in store.root.rglob("*") if path.is_file()} == {
        "needed.safetensors",
        "useless.safetensors",
    }


def test_rm_without_anybody_to_ask_removes_nothing(store: Store) -> None:
    assert "--yes removes without asking" in complaint(store, "rm", "--all")
    assert len(remaining(store)) == 7


def test_rm_lists_many_records_in_short(store: Store) -> None:
    for seed in range(100, 130):
        store.save_record(record(seed=seed))
    assert "… and 17 more" in out(store, "rm", "--all", said="n\n")


def test_rm_says_which_population_loses_members(store: Store) -> None:
    records = read_records(store.root).records
    members = [model(1.0, id=each.id, seed=each.seed) for each in records[:4]]
    store.save_population(population(members[:1], members[1:], id="pop"))
    text = out(store, "rm", "--seed", "0", said="n\n")
    assert "population pop (neural_cleanse on badnets) stays, and loses 2 of its 4 models" in text
    assert "population" not in out(store, "rm", "--status", "failed", said="n\n")


def test_gc_removes_what_no_record_needs_and_says_how_much(store: Store) -> None:
    size = (store.root / "artifacts" / "benign" / "useless.safetensors").stat().st_size
    said = f"1 files, {size / 1000:.1f} kB (benign: 1, {size / 1000:.1f} kB)"
    assert out(store, "gc", "--dry-run") == f"would remove: {said}\n"
    assert len(list((store.root / "artifacts" / "benign").iterdir())) == 2
    assert out(store, "gc") == f"removed: {said}\n"
    assert [path.stem for path in (store.root / "artifacts" / "benign").iterdir()] == ["needed"]
    assert out(store, "gc") == "removed: nothing\n"


def test_gc_keeps_what_is_new_or_may_be_needed_and_says_so(store: Store) -> None:
    store.save_artifact("trojan", "new", {"a": np.zeros(10)}, {})
    store.save_record(record(artifacts=None))
    text = out(store, "gc")
    assert "removed: nothing" in text
    assert "kept, since written in the last 1 hours: 1 files" in text
    assert "kept, since 1 records do not name their artifacts and may need them (--all removes them): 1 files" in text
    assert "removed: 2 files" in out(store, "gc", "--all", "--older-than", "0")
    assert len(remaining(store)) == 8
