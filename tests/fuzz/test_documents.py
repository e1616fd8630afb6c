"""Files of a store: whatever becomes of one, it is read as it was written or it is noticed."""

import json
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gifthorse.bench.query import read_records
from gifthorse.bench.store import Store
from gifthorse.core.errors import StoreError
from gifthorse.core.record import Document
from records import model, population, record, review, scan

LASTING = settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
ARRAYS: dict[str, np.ndarray] = {
    "weights": np.linspace(0, 1, 12, dtype=np.float32).reshape(3, 4),
    "labels": np.arange(5),
}
ABOUT = {"target": 0, "seconds": 1.25, "goal": {"name": "all_to_one", "classes": [0, 1]}}

KINDS: dict[str, Callable[[], Document]] = {
    "record": record,
    "population": lambda: population([model(1.0)], [model(2.0)]),
    "review": review,
    "scan": scan,
}

changes = st.tuples(st.sampled_from(("flip", "cut", "insert", "swap", "double")), st.integers(0, 2**32))


def damaged(content: bytes, change: tuple[str, int]) -> bytes:
    """Return bytes that something went wrong with, where a number says."""
    how, where = change
    luck, mutable = random.Random(where), bytearray(content)
    place = luck.randrange(len(content))
    if how == "flip":
        mutable[place] ^= 1 << luck.randrange(8)
    elif how == "cut":
        del mutable[place : place + luck.randrange(1, 40)]
    elif how == "insert":
        mutable[place:place] = luck.randbytes(luck.randrange(1, 5))
    elif how == "swap":
        other = luck.randrange(len(content))
        mutable[place], mutable[other] = mutable[other], mutable[place]
    else:
        mutable[place:place] = mutable[place : place + luck.randrange(1, 40)]
    return bytes(mutable)


@pytest.mark.parametrize("kind", KINDS)
@LASTING
@given(change=changes)
def test_a_damaged_document_is_noticed_or_is_what_it_was(kind: str, change: tuple[str, int], tmp_path: Path) -> None:
    store, document = Store(tmp_path), KINDS[kind]()
    getattr(store, f"save_{kind}")(document)
    path = getattr(store, f"{kind}_path")(document.id)
    path.write_bytes(damaged(path.read_bytes(), change))
    try:
        found = getattr(store, f"load_{kind}")(document.id)
    except StoreError as error:
        # The number of the schema was hit.
        assert "a newer gifthorse wrote" in str(error)
        found = None
    assert found in (None, document)
    path.unlink()


@settings(LASTING, max_examples=25)
@given(change=changes)
def test_a_damaged_record_is_left_out_of_tables_or_is_what_it_was(change: tuple[str, int], tmp_path: Path) -> None:
    store, sound, hit = Store(tmp_path), record(), record()
    store.save_record(sound)
    store.save_record(hit)
    path = store.record_path(hit.id)
    path.write_bytes(damaged(path.read_bytes(), change))
    try:
        assert read_records(tmp_path).records in ([sound], [sound, hit])
    except StoreError as error:
        assert "a newer gifthorse wrote" in str(error)
    for each in (sound, hit):
        store.record_path(each.id).unlink()


@LASTING
@given(change=changes)
def test_a_damaged_artifact_is_noticed_or_is_what_it_was(change: tuple[str, int], tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.save_artifact("trojan", "key", ARRAYS, ABOUT)
    (path,) = tmp_path.glob("artifacts/trojan/*")
    path.write_bytes(damaged(path.read_bytes(), change))
    found = store.load_artifact("trojan", "key")
    if found is not None:
        arrays, about = found
        assert about == ABOUT
        assert {name: array.tolist() for name, array in arrays.items()} == {
            name: array.tolist() for name, array in ARRAYS.items()
        }


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@pytest.mark.parametrize("kind", KINDS)
@LASTING
@given(values=st.dictionaries(st.integers(0, 99), json_values, min_size=1, max_size=3))
def test_a_document_with_other_values_is_read_or_refused(kind: str, values: dict[int, object], tmp_path: Path) -> None:
    """Without a seal, as earlier versions wrote them; whatever the fields hold, nobody gets a traceback."""
    store, document = Store(tmp_path), KINDS[kind]()
    fields = json.loads(document.to_json())
    names = list(fields)
    fields |= {names[place % len(names)]: value for place, value in values.items()}
    path = getattr(store, f"{kind}_path")(document.id)
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(fields))
    try:
        found = getattr(store, f"load_{kind}")(document.id)
    except StoreError as error:
        assert "a newer gifthorse wrote" in str(error)
    else:
        assert found is None or found.id == document.id
    path.unlink()
