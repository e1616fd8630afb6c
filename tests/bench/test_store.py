"""The store: whole or absent, never half; damaged is noticed; nothing is unpickled."""

import errno
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gifthorse.bench.store import Store, write_atomically
from gifthorse.core.errors import StoreError
from records import model, population, record

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
