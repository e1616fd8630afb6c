"""The store: whole or absent, never half; damaged is noticed; nothing is unpickled."""

import errno
import json
import os
import pickle
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.numpy import load, save

from gifthorse.bench.claims import this_machine
from gifthorse.bench.store import Store, digest, write_atomically
from gifthorse.core.errors import StoreError
from gifthorse.core.record import Document
from records import model, population, record, review, scan

ARRAYS = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.array(7), "c": np.zeros((0, 2), np.uint8)}


def artifact(root: Path) -> Path:
    return root / "artifacts" / "kind" / "key.safetensors"


def saved(root: Path) -> Store:
    store = Store(root)
    store.save_artifact("kind", "key", ARRAYS, {"note": "x", "seconds": 1.5})
    return store


def test_gives_back_what_was_saved(tmp_path: Path) -> None:
    found = saved(tmp_path).load_artifact("kind", "key")
    assert found is not None
    arrays, about = found
    assert about == {"note": "x", "seconds": 1.5}
    assert set(arrays) == set(ARRAYS)
    assert all(
        np.array_equal(arrays[name], array) and arrays[name].dtype == array.dtype for name, array in ARRAYS.items()
    )


def test_the_same_artifact_is_the_same_bytes(tmp_path: Path) -> None:
    first = artifact(tmp_path / "1"), artifact(tmp_path / "2")
    saved(tmp_path / "1")
    saved(tmp_path / "2")
    assert first[0].read_bytes() == first[1].read_bytes()


def test_what_is_not_there_is_none_and_makes_no_folder(tmp_path: Path) -> None:
    store = Store(tmp_path / "nothing")
    assert store.load_artifact("kind", "key") is None
    assert store.load_record("id") is None
    assert list(store.records()) == []
    assert list(store.populations()) == []
    assert store.evidence("id") == {}
    assert not (tmp_path / "nothing").exists()


def test_populations_come_in_the_order_in_which_they_were_made_without_the_damaged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = Store(tmp_path)
    days = {"c": "2026-01-01", "a": "2026-01-02", "b": "2026-01-02", "d": "2025-12-31"}
    made = {
        name: population([model(1.0)], [model(2.0)], id=name, created=f"{day}T00:00:00.000+00:00")
        for name, day in days.items()
    }
    for name in ("a", "b", "c", "d"):
        store.save_population(made[name])
    store.save_record(record())
    assert list(store.populations()) == [made[name] for name in ("d", "c", "a", "b")]
    path = store.population_path("c")
    path.write_text(path.read_text()[:-9])
    assert [each.id for each in store.populations()] == ["d", "a", "b"]
    assert str(path) in caplog.text


def test_evidence_is_the_arrays_behind_a_record(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.save_artifact("evidence", "id", ARRAYS, {})
    assert {name: array.tolist() for name, array in store.evidence("id").items()} == {
        name: array.tolist() for name, array in ARRAYS.items()
    }
    assert store.evidence("other") == {}


def test_a_file_is_as_readable_as_any_other_that_its_owner_makes(tmp_path: Path) -> None:
    (tmp_path / "other").touch()
    write_atomically(tmp_path / "file", b"content")
    assert (tmp_path / "file").stat().st_mode == (tmp_path / "other").stat().st_mode
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "other"]


@pytest.mark.parametrize("keep", [0, 5, 60, -1])
def test_a_truncated_artifact_is_noticed(keep: int, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = saved(tmp_path)
    content = artifact(tmp_path).read_bytes()
    artifact(tmp_path).write_bytes(content[:keep])
    assert store.load_artifact("kind", "key") is None
    assert "damaged" in caplog.text


def test_one_flipped_bit_is_noticed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = saved(tmp_path)
    content = bytearray(artifact(tmp_path).read_bytes())
    content[-12] ^= 1
    artifact(tmp_path).write_bytes(content)
    assert store.load_artifact("kind", "key") is None
    assert "checksum" in caplog.text


def rewritten(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Give an artifact another description, and leave its arrays as they are."""
    with safe_open(path, framework="np") as file:
        document = json.loads(file.metadata()["gifthorse"])
    change(document)
    path.write_bytes(save(load(path.read_bytes()), metadata={"gifthorse": json.dumps(document)}))


EDITS: dict[str, Callable[[dict[str, Any]], object]] = {
    "a number": lambda whole: whole["about"].update(seconds=7),
    "one more": lambda whole: whole["about"].update(target=7),
    "one less": lambda whole: whole["about"].pop("note"),
    "none": lambda whole: whole.pop("about"),
    "no object": lambda whole: whole.update(about=[1]),
    "kind": lambda whole: whole.update(kind="other"),
    "no kind": lambda whole: whole.pop("kind"),
    "no digest": lambda whole: whole.pop("digest"),
}


@pytest.mark.parametrize("edit", EDITS.values(), ids=list(EDITS))
def test_an_edited_description_is_noticed(
    edit: Callable[[dict[str, Any]], object], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = saved(tmp_path)
    rewritten(artifact(tmp_path), edit)
    assert store.load_artifact("kind", "key") is None
    assert f"{artifact(tmp_path)} is damaged" in caplog.text


@pytest.mark.parametrize("metadata", [None, {}, {"gifthorse": "{"}, {"gifthorse": "[]"}, {"gifthorse": "[" * 100_000}])
def test_a_description_that_does_not_parse_is_noticed(
    metadata: dict[str, str] | None, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = saved(tmp_path)
    artifact(tmp_path).write_bytes(save(dict(ARRAYS), metadata=metadata))
    assert store.load_artifact("kind", "key") is None
    assert "damaged" in caplog.text


@pytest.mark.parametrize(("kind", "key"), [("kind", "another"), ("another", "key")])
def test_an_artifact_in_the_place_of_another_is_noticed(
    kind: str, key: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = saved(tmp_path)
    store.save_artifact(kind, key, ARRAYS, {"seconds": 2})
    artifact(tmp_path).write_bytes((tmp_path / "artifacts" / kind / f"{key}.safetensors").read_bytes())
    assert store.load_artifact("kind", "key") is None
    assert f"it is {kind}/{key}" in caplog.text


def test_an_artifact_of_an_earlier_version_is_read_as_it_is(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Its digest was of the arrays alone."""
    store = saved(tmp_path)
    older = json.dumps({"digest": digest(dict(ARRAYS)), "about": {"note": "older"}})
    artifact(tmp_path).write_bytes(save(dict(ARRAYS), metadata={"gifthorse": older}))
    found = store.load_artifact("kind", "key")
    assert found is not None
    assert found[1] == {"note": "older"}
    assert caplog.text == ""


def test_a_description_is_what_json_makes_of_it(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.save_artifact("kind", "key", ARRAYS, {"sizes": (1, 2), "names": {10: "ten", 9: "nine"}, "share": 0.1})
    found = store.load_artifact("kind", "key")
    assert found is not None
    assert found[1] == {"sizes": [1, 2], "names": {"10": "ten", "9": "nine"}, "share": 0.1}


KINDS: dict[str, Callable[[], Document]] = {
    "records": record,
    "populations": lambda: population([model(1.0)], [model(2.0)]),
    "reviews": review,
    "scans": scan,
}


def kept(store: Store, kind: str, document: Any) -> tuple[Path, Callable[[], Document | None]]:
    """Save a document; return where it lies and what reads it again."""
    getattr(store, f"save_{kind[:-1]}")(document)
    read: Callable[[str], Document | None] = getattr(store, f"load_{kind[:-1]}")
    return store.root / kind / f"{document.id}.json", lambda: read(document.id)


@pytest.mark.parametrize("kind", KINDS)
def test_every_edit_of_a_document_is_noticed(kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    document = KINDS[kind]()
    path, read = kept(Store(tmp_path), kind, document)
    assert read() == document
    whole = path.read_text()
    lines = whole.splitlines()
    assert len(lines) > 9
    # Without its first line, the seal, it is as earlier versions wrote it.
    for number, line in enumerate(lines[2:-1], 2):
        if line.strip()[0] in "{}[]" or '"schema"' in line:
            continue
        cut = [*lines[:number], *lines[number + 1 :]]
        edited = [*lines[:number], line.replace("1", "2") if "1" in line else line[:-1] + " " + line[-1:]]
        for content in (cut, edited + lines[number + 1 :]):
            path.write_text("\n".join(content))
            if path.read_text() != whole:
                assert read() is None, content[number]
    assert f"{path} is damaged (it was changed after it was written)" in caplog.text
    path.write_text(f"{whole}\n")
    assert read() == document


@pytest.mark.parametrize("kind", KINDS)
def test_a_document_in_the_place_of_another_is_noticed(
    kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    document = KINDS[kind]()
    path, read = kept(Store(tmp_path), kind, document)
    other = document.model_copy(update={"id": "f" * 24})
    path.write_bytes(kept(Store(tmp_path), kind, other)[0].read_bytes())
    assert read() is None
    assert f"it is that of {other.id}" in caplog.text


@pytest.mark.parametrize("kind", KINDS)
def test_a_document_of_an_earlier_version_has_no_seal_and_is_read_as_it_is(kind: str, tmp_path: Path) -> None:
    document = KINDS[kind]()
    path, read = kept(Store(tmp_path), kind, document)
    path.write_text(document.to_json())
    assert read() == document


@pytest.mark.parametrize("kind", KINDS)
def test_a_document_of_a_newer_version_is_neither_read_nor_overwritten(kind: str, tmp_path: Path) -> None:
    document = KINDS[kind]()
    store = Store(tmp_path)
    path, read = kept(store, kind, document)
    newer = json.dumps(json.loads(path.read_text()) | {"schema": 2, "news": []})
    path.write_text(newer)
    for work in (read, lambda: kept(store, kind, document)):
        with pytest.raises(StoreError, match=r"a newer gifthorse wrote .*: it has schema 2, this one knows 1"):
            work()
    assert path.read_text() == newer


@pytest.fixture(params=[0o022, 0o002, 0o077], ids=oct)
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def test_what_a_store_has_is_as_readable_as_the_user_lets_new_files_be(umask: int, tmp_path: Path) -> None:
    """So that a group can share one, and nobody else looks into it where nobody should."""
    root = tmp_path / "store"
    store = saved(root)
    store.save_record(record())
    store.save_log("id", "Traceback")
    with store.claimed("benign", "key"):
        found = list(root.rglob("*"))
        modes = {path.stat().st_mode & 0o777 for path in found if path.is_file()}
        folders = {path.stat().st_mode & 0o777 for path in [root, *found] if path.is_dir()}
    assert (modes, folders) == ({0o666 & ~umask}, {0o777 & ~umask})
    assert any(path.parent.name == "claims" for path in found)


def test_what_was_left_unfinished_is_swept_once_it_is_old_or_its_process_is_gone(tmp_path: Path) -> None:
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    store = saved(tmp_path)
    store.save_record(record())
    whole = {path for path in tmp_path.rglob("*") if path.is_file()}
    dead, alive = f"{this_machine()}+{child.pid}+aa.part", f"{this_machine()}+{os.getpid()}+aa.part"
    paths = [
        tmp_path / "unfinished" / dead,
        tmp_path / "unfinished" / alive,
        tmp_path / "unfinished" / f"elsewhere+{child.pid}+aa.part",
        tmp_path / "records" / ".x.json.tmp",
        tmp_path / "artifacts" / "kind" / ".y.tmp",
        tmp_path / "claims" / "benign-1.0",
    ]
    for path in paths:
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"half")
    store.sweep()
    assert {path for path in paths if path.exists()} == {*paths[1:]}
    yesterday = time.time() - 25 * 3600
    for path in tmp_path.rglob("*"):
        os.utime(path, (yesterday, yesterday))
    store.sweep()
    assert {path for path in tmp_path.rglob("*") if path.is_file()} == whole


class Payload:
    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.path),)


def test_a_pickle_in_its_place_is_refused_without_being_run(tmp_path: Path) -> None:
    store = saved(tmp_path)
    artifact(tmp_path).write_bytes(pickle.dumps(Payload(tmp_path / "executed")))
    assert store.load_artifact("kind", "key") is None
    assert not (tmp_path / "executed").exists()


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.binary(max_size=300))
def test_no_bytes_crash_the_reader(tmp_path: Path, content: bytes) -> None:
    store = saved(tmp_path)
    artifact(tmp_path).write_bytes(content)
    assert store.load_artifact("kind", "key") is None
    (tmp_path / "records").mkdir(exist_ok=True)
    (tmp_path / "records" / "x.json").write_bytes(content)
    assert store.load_record("x") is None


def test_a_full_disk_is_one_clear_error_and_leaves_nothing_half_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_space(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(StoreError, match="No space left on device"):
        saved(tmp_path)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_on_a_full_disk_the_earlier_report_stays_and_half_of_one_is_nowhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_atomically(tmp_path / "report.html", b"earlier")

    def no_space(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(StoreError, match=r"cannot write .*report\.html: No space left on device"):
        write_atomically(tmp_path / "report.html", b"newer")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"report.html": b"earlier"}


@pytest.mark.parametrize(("owner", "step"), [(os, "fsync"), (Path, "replace")])
def test_an_interrupt_leaves_nothing_half_written(
    owner: object, step: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether it comes while the file is being filled or when it is about to take its place."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(owner, step, interrupt)
    with pytest.raises(KeyboardInterrupt):
        saved(tmp_path)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
