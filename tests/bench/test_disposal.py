"""What gc and rm take away: never what a record needs, and all of the rest that is known to be useless."""

import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gifthorse.bench.cell import Cell, resolve
from gifthorse.bench.disposal import Garbage, Piece, artifacts, find_garbage, pieces_of, remove
from gifthorse.bench.query import read_records
from gifthorse.bench.runner import Runner
from gifthorse.bench.store import Store
from gifthorse.core.errors import StoreError
from gifthorse.core.record import Record
from records import record

KINDS = ("benign", "twin", "attack_prepared", "trojan", "judgement", "prepared")
HOUR = 3600.0


def put(store: Store, kind: str, key: str, age: float = 2 * HOUR) -> Path:
    store.save_artifact(kind, key, {"a": np.arange(3)}, {})
    (path,) = (store.root / "artifacts" / kind).glob(f"{key}.safetensors")
    then = time.time() - age
    os.utime(path, (then, then))
    return path


def names(pieces: Iterable[Piece]) -> set[str]:
    return {f"{piece.kind}/{piece.path.stem}" for piece in pieces}


def cell(**request: Any) -> Cell:
    return resolve(dataset="digits", training="standard[epochs=1]", profile="smoke", **request)


def garbage(store: Store, age: float = HOUR) -> Garbage:
    return find_garbage(store, read_records(store.root), age)


def naming(store: Store, **keys: str) -> Record:
    """A record in the store, and the artifacts that it names, its evidence among them."""
    found = record()
    found = found.model_copy(update={"artifacts": {**keys, "evidence": found.id}})
    store.save_record(found)
    for kind, key in {**keys, "evidence": found.id}.items():
        put(store, kind, key)
    return found


def test_what_no_record_names_is_useless_and_what_one_names_is_not(tmp_path: Path) -> None:
    store = Store(tmp_path)
    naming(store, benign="b1", trojan="t1")
    naming(store, benign="b1", trojan="t2", prepared="p1")
    for kind, key in (("benign", "b2"), ("trojan", "b1"), ("prepared", "x"), ("evidence", "gone")):
        put(store, kind, key)
    found = garbage(store)
    assert names(found.useless) == {"benign/b2", "trojan/b1", "prepared/x", "evidence/gone"}
    assert (found.recent, found.doubtful, found.silent) == ([], [], 0)
    assert found.useless[0].size == found.useless[0].path.stat().st_size


def test_what_was_written_a_moment_ago_is_kept(tmp_path: Path) -> None:
    store = Store(tmp_path)
    put(store, "benign", "new", age=60)
    put(store, "benign", "old")
    assert names(garbage(store).recent) == {"benign/new"}
    assert names(garbage(store).useless) == {"benign/old"}
    assert names(garbage(store, age=0).useless) == {"benign/new", "benign/old"}


@pytest.mark.parametrize("damaged", [False, True])
def test_records_that_do_not_tell_protect_whatever_they_may_need(damaged: bool, tmp_path: Path) -> None:
    store = Store(tmp_path)
    naming(store, benign="b1")
    older = record(artifacts=None)
    store.save_record(older)
    if damaged:
        store.record_path(older.id).write_text("{")
    for kind in KINDS:
        put(store, kind, "unknown")
    put(store, "evidence", older.id)
    put(store, "evidence", "gone")
    found = garbage(store)
    assert names(found.useless) == {"evidence/gone"}
    assert names(found.doubtful) == {f"{kind}/unknown" for kind in KINDS}
    assert found.silent == 1


def test_what_died_while_it_was_written_is_useless_once_it_is_old(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.save_record(record(artifacts=None))
    paths = [tmp_path / "records" / ".abc.tmp", tmp_path / "artifacts" / "benign" / "x.part", tmp_path / "y.part"]
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"half")
    assert {piece.path for piece in garbage(store).recent} == set(paths)
    for path in paths:
        os.utime(path, (0, 0))
    assert {piece.path for piece in garbage(store).useless} == set(paths)


def test_kept_answers_that_lead_nowhere_are_useless(tmp_path: Path) -> None:
    store = Store(tmp_path)
    known = naming(store)
    (tmp_path / "answers").mkdir()
    (tmp_path / "populations").mkdir()
    (tmp_path / "populations" / "pop.json").write_text("{}")
    for name, answer in (("a", known.id), ("b", "gone"), ("c", "pop")):
        (tmp_path / "answers" / f"{name}.json").write_text(f'seal\n{{"answer": "{answer}", "files": {{}}}}')
    (tmp_path / "answers" / "d.json").write_text("")
    assert names(garbage(store, age=-1).useless) == {"answers/b", "answers/d"}


@settings(max_examples=60)
@given(
    st.lists(st.one_of(st.none(), st.dictionaries(st.sampled_from(KINDS), st.sampled_from("abcd"))), max_size=4),
    st.sets(st.tuples(st.sampled_from(KINDS), st.sampled_from("abcd"))),
)
def test_whatever_records_say_nothing_that_they_need_goes(
    tmp_path_factory: pytest.TempPathFactory, named: list[dict[str, str] | None], there: set[tuple[str, str]]
) -> None:
    store = Store(tmp_path_factory.mktemp("store"))
    for each in named:
        store.save_record(record(artifacts=each))
    for kind, key in there:
        put(store, kind, key)
    needed = {pair for each in named for pair in (each or {}).items()}
    found = garbage(store)
    gone = {(piece.kind, piece.path.stem) for piece in found.useless + found.doubtful}
    assert gone == there - needed
    assert bool(found.useless) <= (None not in named)
    assert not found.doubtful or None in named


def test_of_a_store_that_ran_nothing_is_useless_until_a_record_is_removed(tmp_path: Path) -> None:
    """Every stage that the runner keeps is named by the record: with a twin, preparations, and a failure later on."""
    runner = Runner(Store(tmp_path), tmp_path / "unused", torch.device("cpu"))
    requests: tuple[dict[str, Any], ...] = (
        {
            "attack": "invisible[perturbation=universal,origin=benign,epochs=1,search_steps=2]",
            "defense": "neural_cleanse[reference=2,steps=2]",
        },
        {"attack": "badnets", "defense": "shrinkpad"},
        {"attack": "badnets", "defense": "strip[overlays=5000]"},
        {"attack": "badnets", "downstream": "fcn1[epochs=1]"},
        {"attack": "none"},
    )
    records = [runner.run(cell(**request)) for request in requests]
    assert [each.status for each in records] == ["done", "done", "skipped", "done", "done"]
    kept = Store(tmp_path)
    kinds = {piece.kind for piece in artifacts(kept)}
    assert kinds == {*KINDS, "evidence"}
    assert records[0].artifacts is not None
    assert set(records[0].artifacts) == kinds
    assert garbage(kept, age=-1) == Garbage([], [], [], 0)

    remove(pieces_of(kept, records[0]))
    gone = garbage(kept, age=-1)
    assert {piece.kind for piece in gone.useless} == {*KINDS} - {"benign"}
    remove(gone.useless)
    assert garbage(kept, age=-1) == Garbage([], [], [], 0)
    trained = {piece.path: piece.written for piece in artifacts(kept)}
    assert runner.run(cell(**requests[0])).metrics == records[0].metrics
    assert trained.items() <= {piece.path: piece.written for piece in artifacts(kept)}.items()


def test_a_failed_cell_names_what_was_made_before_it_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from gifthorse.defenses.reformation.transformation import ShrinkPad

    monkeypatch.setattr(ShrinkPad, "defend", lambda *_: 1 / 0)
    runner = Runner(Store(tmp_path), tmp_path / "unused", torch.device("cpu"))
    failed = runner.run(cell(attack="badnets", defense="shrinkpad"))
    assert (failed.status, set(failed.artifacts or {})) == ("failed", {"benign", "trojan", "judgement"})
    assert garbage(Store(tmp_path), age=-1) == Garbage([], [], [], 0)


def test_the_files_of_a_record_are_its_own_alone(tmp_path: Path) -> None:
    store = Store(tmp_path)
    found = naming(store, benign="b1")
    assert {piece.kind for piece in pieces_of(store, found)} == {"record", "evidence"}
    remove(pieces_of(store, found))
    remove(pieces_of(store, found))
    assert store.load_record(found.id) is None
    assert names(artifacts(store)) == {"benign/b1"}


def test_what_cannot_be_removed_is_an_error_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(StoreError, match=f"cannot remove {tmp_path / 'folder'}"):
        remove([Piece("record", tmp_path / "folder", 0, 0)])
