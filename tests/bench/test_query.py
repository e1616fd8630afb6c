"""Records read at once are the records, whatever else lies there; and they are one flat table."""

import csv
import json
import math
from pathlib import Path
from typing import Any

import duckdb
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gifthorse.analyses import ANALYSES
from gifthorse.attacks import ATTACKS
from gifthorse.bench.aliases import listed_name
from gifthorse.bench.cell import RECIPES
from gifthorse.bench.query import Condition, frame, read_records, select, write_frame
from gifthorse.bench.store import Store
from gifthorse.core.errors import RequestError, StoreError
from gifthorse.core.record import Record
from gifthorse.core.seal import sealed
from gifthorse.datasets import DATASETS
from gifthorse.defenses import DEFENSES
from gifthorse.models import ARCHITECTURES
from gifthorse.stampings import STAMPS
from gifthorse.training.heads import HEADS
from gifthorse.transformations import TRANSFORMATIONS
from records import BADNETS, CLEANSE, SHRINKPAD, STRIP, record, repaired

TUNED = {"head": {"name": "fcn1", "tuning": "full"}, "dataset": {"name": "digits", "size": 12}, "data_digest": "e" * 24}


def stored(root: Path, *records: Record) -> Store:
    store = Store(root)
    for each in records:
        store.save_record(each)
    return store


VARIED = (
    record(seconds={"attack": 1.5}, artifacts={"benign": "a", "trojan": "b"}, doubts=["weak", "leaks"]),
    record(defense=CLEANSE, metrics={"defense.scores": [1.0, -2.5], "defense.flagged": False, "defense.index": 3}),
    record(downstream=TUNED, class_names=["zero", "one"], file_digests={"a.png": "f" * 64, "b.png": None}),
    record(status="failed", reason='ValueError: "boom"\nand more', seed=2**40),
    record(attack={"name": "wrapper", "base": BADNETS, "defenses": [{"name": "strip"}]}, data_digest=None),
    record(dataset={"name": "folder", "path": 'Bilder/Käfer \'n "Co" 🐴'}),
    record(stamp={"name": "amplified", "copies": 9}),
)


def test_what_is_read_at_once_is_what_is_read_one_by_one(tmp_path: Path) -> None:
    store = stored(tmp_path, *VARIED)
    found = read_records(tmp_path)
    assert found.damaged == []
    assert found.records == list(store.records()) == list(VARIED)
    assert [each.to_json() for each in found.records] == [each.to_json() for each in VARIED]


def test_a_record_of_before_the_newest_fields_is_read(tmp_path: Path) -> None:
    path = stored(tmp_path, VARIED[0]).record_path(VARIED[0].id)
    document = json.loads(path.read_text())
    for field in (
        "digest",
        "artifacts",
        "doubts",
        "class_names",
        "file_digests",
        "data_digest",
        "seconds",
        "downstream",
        "stamp",
        "reason",
    ):
        del document[field]
    path.write_text(json.dumps(document))
    (found,) = read_records(tmp_path).records
    assert found == Record.from_json(path.read_text())
    assert (found.artifacts, found.doubts, found.seconds) == (None, [], {})


def change(**fields: Any) -> bytes:
    """A sound record in the file ``broken.json``, but for some fields."""
    return json.dumps(json.loads(record().to_json()) | {"id": "broken"} | fields).encode()


SEALED = sealed(json.dumps(json.loads(change()), indent=1)).encode()

DAMAGED = {
    "empty": b"",
    "cut": change()[:-2],
    "no text": b"\xff\xfe\x00",
    "no object": b"[]",
    "nothing": b"{}",
    "no seed": change(seed=None),
    "status": change(status="great"),
    "attack": change(attack="badnets"),
    "metrics": change(metrics=[1]),
    "doubts": change(doubts="many"),
    "environment": change(environment={}),
    "family": change(family="filtering"),
    "not a number": change().replace(b"0.99", b"NaN"),
    "deep": b"[" * 5000 + b"]" * 5000,
    "other name": change(id="another"),
    "edited": SEALED.replace(b"0.99", b"0.98"),
    "edited blank": SEALED.replace(b'"broken"', b' "broken"'),
    "another's seal": SEALED[:20] + b"0000" + SEALED[24:],
    "one more field": SEALED.replace(b'"seed"', b'"seeds": 1,\n "seed"'),
    "seal elsewhere": change(digest="0" * 64) + b"\n",
}


@pytest.mark.parametrize("content", DAMAGED.values(), ids=list(DAMAGED))
def test_a_damaged_record_is_left_out_with_a_warning_and_the_others_are_read(
    content: bytes, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = stored(tmp_path, VARIED[0])
    store.record_path("broken").write_bytes(content)
    found = read_records(tmp_path)
    assert found.records == [VARIED[0]]
    assert found.damaged == [store.record_path("broken")]
    assert f"1 damaged in {tmp_path / 'records'}, left out: broken" in caplog.text
    for sound in (change(), SEALED, SEALED + b"\n"):
        store.record_path("broken").write_bytes(sound)
        assert len(read_records(tmp_path).records) == 2


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=300))
def test_no_bytes_keep_the_others_from_being_read(tmp_path: Path, content: bytes) -> None:
    store = stored(tmp_path, VARIED[0])
    store.record_path("x").write_bytes(content)
    assert read_records(tmp_path).records == [VARIED[0]]


def test_a_store_of_a_newer_program_is_refused_with_its_schema_named(tmp_path: Path) -> None:
    store = stored(tmp_path, VARIED[0])
    store.record_path("newer").write_bytes(change(schema=2, id="newer"))
    with pytest.raises(StoreError, match=r"a newer gifthorse wrote .*: its records have schema 2, this one reads 1"):
        read_records(tmp_path)


@pytest.mark.parametrize("name", ["a[b]c", "what?", "all*", "it's {one}"])
def test_a_folder_of_any_name_is_read(name: str, tmp_path: Path) -> None:
    stored(tmp_path / name, VARIED[0])
    stored(tmp_path / "abc", VARIED[1])
    assert read_records(tmp_path / name).records == [VARIED[0]]


def test_what_is_not_there_and_what_is_being_written_are_no_records(tmp_path: Path) -> None:
    assert read_records(tmp_path / "nothing").records == []
    store = stored(tmp_path, VARIED[0])
    (tmp_path / "records" / ".x.json.tmp").write_bytes(b"{")
    (tmp_path / "records" / "notes.txt").write_bytes(b"{")
    assert read_records(tmp_path).records == [store.load_record(VARIED[0].id)]


CELLS = [
    record(seed=0),
    record(seed=1, defense=STRIP | {"overlays": 8}),
    repaired(0.2, seed=2, attack=BADNETS | {"poison_rate": 0.05, "source": None}),
    record(seed=3, attack={"name": "none"}, model={"name": "torchvision", "arch": "resnet50"}),
    record(seed=4, downstream=TUNED, dataset={"name": "mnist", "augment": True}),
]


@pytest.mark.parametrize(
    ("asked", "seeds"),
    [
        ({"dataset": "mnist"}, [4]),
        ({"attack": "badnets"}, [0, 1, 2, 4]),
        ({"attack": "badnets[poison_rate=0.05]"}, [2]),
        ({"attack": "badnets[poison_rate=.1,target=1]"}, [0, 1, 4]),
        ({"attack": "none"}, [3]),
        ({"defense": "none"}, [0, 3, 4]),
        ({"defense": "strip[overlays=8]"}, [1]),
        ({"model": "torchvision/resnet50"}, [3]),
        ({"model": "torchvision"}, [3]),
        ({"downstream": "fcn1[tuning=full]"}, [4]),
        ({"downstream": "none"}, [0, 1, 2, 3]),
        ({"attack.poison_rate": "0.10"}, [0, 1, 4]),
        ({"attack.poison_rate": "5e-2"}, [2]),
        ({"attack.source": "null"}, [0, 1, 2, 3, 4]),
        ({"dataset.augment": "true"}, [4]),
        ({"dataset.augment": "1"}, None),
        ({"seed": ("0", "3")}, [0, 3]),
        ({"seed": ("0", "3"), "attack": "none"}, [3]),
        ({"version": "0.1.0", "profile": "laptop", "status": "done"}, [0, 1, 2, 3, 4]),
        ({"metrics.defense.asr": "0.2"}, [2]),
        ({"family": "filtering"}, [1]),
        ({"downstream.dataset.size": "12"}, [4]),
    ],
    ids=str,
)
def test_records_are_chosen_by_any_column(asked: dict[str, Any], seeds: list[int] | None) -> None:
    conditions = [
        Condition(column, wanted if isinstance(wanted, tuple) else (wanted,)) for column, wanted in asked.items()
    ]
    if seeds is None:
        with pytest.raises(RequestError):
            select(CELLS, conditions)
    else:
        assert [each.seed for each in select(CELLS, conditions)] == seeds


@pytest.mark.parametrize(
    ("column", "wanted", "said"),
    [
        ("dataset", "minst", "no record has dataset=minst; there is: digits, mnist"),
        ("defense", "nope", "no record has defense=nope; there is: none, shrinkpad, strip"),
        ("seed", "9", "no record has seed=9; there is: 0, 1, 2, 3, 4"),
        ("attack.poison_rat", "1", "no record has a column 'attack.poison_rat'; did you mean 'attack.poison_rate'"),
        ("attack", "badnets[", "not of the form"),
    ],
)
def test_what_chooses_nothing_is_an_error_that_helps(column: str, wanted: str, said: str) -> None:
    with pytest.raises(RequestError) as error:
        select(CELLS, [Condition(column, (wanted,))])
    assert said in str(error.value)


def test_conditions_are_asked_of_what_the_others_left() -> None:
    with pytest.raises(RequestError, match="no record has seed=0; there is: 3"):
        select(CELLS, [Condition("attack", ("none",)), Condition("seed", ("0",))])


def test_a_store_is_a_data_frame_with_a_row_per_record_and_columns_of_one_type(tmp_path: Path) -> None:
    found = stored(tmp_path, *VARIED).to_frame()
    assert list(found["id"]) == [each.id for each in VARIED]
    assert found["attack.poison_rate"].dtype == "float64"
    assert found["seed"].dtype == "int64"
    assert found["metrics.attack.valid"].dtype == "boolean"
    assert found["metrics.defense.flagged"].dtype == "boolean"
    assert found["dataset.size"].dtype == "Int64"
    assert list(found["attack.name"]) == [each.attack["name"] for each in VARIED]
    assert found["metrics.defense.scores"][1] == [1.0, -2.5]
    assert found["doubts"][0] == ["weak", "leaks"]
    assert math.isnan(found["metrics.attack.asr"][3])
    assert found["metrics.attack.asr"].mean() == pytest.approx(0.99)
    assert json.loads(found["file_digests"][2]) == {"a.png": "f" * 64, "b.png": None}


def test_a_column_of_several_kinds_is_json() -> None:
    places = [[1, 2], "top_left", 3, None]
    found = frame([record(attack={"name": "a", "place": {"at": place}}) for place in places])["attack.place.at"]
    assert list(map(json.loads, found.dropna())) == places[:3]
    assert list(found.isna()) == [False, False, False, True]


def test_an_empty_store_is_an_empty_frame(tmp_path: Path) -> None:
    assert len(Store(tmp_path / "nothing").to_frame()) == 0


def test_a_csv_file_has_every_record_exactly(tmp_path: Path) -> None:
    write_frame(frame(VARIED), tmp_path / "r.csv")
    with (tmp_path / "r.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["id"] for row in rows] == [each.id for each in VARIED]
    assert rows[3]["reason"] == VARIED[3].reason
    assert rows[5]["dataset.path"] == VARIED[5].dataset["path"]
    assert float(rows[0]["metrics.attack.asr"]) == VARIED[0].metrics["attack.asr"]
    assert rows[3]["metrics.attack.asr"] == ""
    assert json.loads(rows[1]["metrics.defense.scores"]) == [1.0, -2.5]
    assert json.loads(rows[2]["class_names"]) == ["zero", "one"]
    assert rows[3]["seed"] == str(2**40)


def test_a_parquet_file_has_every_record_with_types(tmp_path: Path) -> None:
    write_frame(frame(VARIED), tmp_path / "r.parquet")
    query = 'SELECT id, seed, "metrics.attack.asr", "metrics.defense.scores", "metrics.defense.flagged" FROM {}'
    rows = duckdb.execute(query.format(f"'{tmp_path / 'r.parquet'}'")).fetchall()
    assert [row[0] for row in rows] == [each.id for each in VARIED]
    assert rows[1][1:] == (0, 0.99, [1.0, -2.5], False)
    assert rows[3][1:] == (2**40, None, None, None)


def test_another_kind_of_file_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"'r.xlsx'"):
        write_frame(frame(VARIED), tmp_path / "r.xlsx")
    assert list(tmp_path.iterdir()) == []


def test_a_seed_of_any_size_is_kept() -> None:
    assert list(frame([record(seed=2**70), repaired(0.5, seed=1, defense=SHRINKPAD)])["seed"].astype(str)) == [
        str(2**70),
        "1",
    ]


# ---- aliases


def test_every_alias_of_a_listed_class_is_understood() -> None:
    """The names are read from the text of the files; the catalogues have them from the classes."""
    found: dict[str, str] = {}
    for catalogue in (ATTACKS, DEFENSES, ARCHITECTURES, DATASETS, RECIPES, HEADS, STAMPS, ANALYSES, TRANSFORMATIONS):
        for cls in catalogue.values():
            if cls.__module__.startswith("gifthorse."):
                found |= dict.fromkeys((*cls.aliases, cls.name), cls.name)
    assert len(found) > 100
    assert {alias: listed_name(alias) for alias in found} == found


@pytest.mark.parametrize("name", ["badnets", "bn", "badnet", "BadNets", "bn[poison_rate=0.1]"])
def test_records_are_chosen_by_the_names_that_requests_take(name: str) -> None:
    records = [record(attack={"name": "targeted_blend"}), record(), record(defense=CLEANSE)]
    assert select(records, [Condition("attack", (name,))]) == records[1:]
    assert select(records, [Condition("defense", ("neural-cleanse",))]) == records[2:]
    assert select(records, [Condition("attack", ("tb",))]) == records[:1]
    with pytest.raises(RequestError, match="no record has defense=bn; there is: neural_cleanse, none"):
        select(records, [Condition("defense", ("bn",))])
