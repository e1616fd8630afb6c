"""Reading checkpoints: what is sound comes back exactly; what is hostile is refused, and none of it has run."""

import functools
import importlib
import io
import json
import os
import pickle
import runpy
import socket
import struct
import sys
import time
import timeit
import tracemalloc
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from safetensors.torch import save as to_safetensors
from torch import nn

from checkpoint_files import Call, assert_same, members_of, read, read_or_refuse, refusal, saved, weights, zipped
from gifthorse.checkpoints.limits import Limits
from gifthorse.checkpoints.numpy_values import PickledArray, PickledScalar, PickledType
from gifthorse.checkpoints.reading import read_state_dict
from gifthorse.core.errors import RequestError


def in_npz(arrays: dict[str, Any], *, objects: bool = False) -> bytes:
    stream = io.BytesIO()
    np.savez(stream, allow_pickle=objects, **arrays)
    return stream.getvalue()


# What is accepted


@pytest.mark.parametrize("name", ["model.safetensors", "model.pt", "model.onnx", "noending"])
def test_safetensors_come_back_exactly_whatever_the_file_is_called(name: str, tmp_path: Path) -> None:
    expected = weights()
    found = read(tmp_path, to_safetensors(expected), name)
    assert_same(dict(sorted(found.items())), dict(sorted(expected.items())))


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("name", ["model.pt", "model.safetensors"])
def test_a_state_dict_from_torch_comes_back_exactly(legacy: bool, name: str, tmp_path: Path) -> None:
    assert_same(read(tmp_path, saved(weights(), legacy=legacy), name), weights())
    assert_same(read(tmp_path, saved(OrderedDict(weights()), legacy=legacy), name), weights())


@pytest.mark.parametrize("legacy", [False, True])
def test_the_state_dict_of_a_module_with_its_parameters(legacy: bool, tmp_path: Path) -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    found = read(tmp_path, saved(module.state_dict(keep_vars=True), legacy=legacy))
    assert_same(found, {name: tensor.detach() for name, tensor in module.state_dict().items()})
    assert not any(tensor.requires_grad for tensor in found.values())


def test_tied_and_transposed_tensors(tmp_path: Path) -> None:
    table = torch.arange(6.0).reshape(2, 3)
    assert_same(
        read(tmp_path, saved({"a": table, "b": table, "c": table.t()})), {"a": table, "b": table, "c": table.t()}
    )


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_npz(compression: int, tmp_path: Path) -> None:
    content = zipped(members_of(in_npz({"a.weight": np.arange(6.0).reshape(2, 3).T, "n": np.int64(3)})), compression)
    found = read(tmp_path, content)
    assert_same(found, {"a.weight": torch.arange(6.0, dtype=torch.float64).reshape(2, 3).T, "n": torch.tensor(3)})


@pytest.mark.parametrize("around", [["state_dict"], ["model_state_dict"], ["model"], ["net"], ["model", "state_dict"]])
def test_weights_are_taken_out_of_the_usual_containers(around: list[str], tmp_path: Path) -> None:
    content: Any = weights()
    for name in reversed(around):
        content = {
            name: content,
            "epoch": 3,
            "arch": "resnet18",
            "optimizer": {"state": {}, "param_groups": [{"lr": 0.1}]},
        }
    assert_same(read(tmp_path, saved(content)), weights())


def test_a_choice_of_weights_is_the_callers(tmp_path: Path) -> None:
    other = {"x": torch.zeros(2)}
    content = saved({"model": weights(), "net": other, "ema": {"y": torch.ones(1)}})
    assert "name one with entry=: model, net" in refusal(tmp_path, content)
    assert_same(read(tmp_path, content, entry="net"), other)
    assert_same(read(tmp_path, content, entry="ema"), {"y": torch.ones(1)})
    assert "no entry 'nope'; it has model (a dictionary), net (a dictionary), ema (a dictionary)" in refusal(
        tmp_path, content, entry="nope"
    )


def backdoorbench() -> dict[str, Any]:
    """What BackdoorBench's save_attack_result wrote before it kept its data set objects."""
    return {
        "model_name": "preactresnet18",
        "num_classes": 10,
        "model": weights(),
        "data_path": "data/cifar10",
        "img_size": [32, 32, 3],
        "clean_data": "cifar10",
        "bd_train": {
            "x": torch.zeros(2, 3, 4, 4),
            "y": torch.zeros(2, dtype=torch.int64),
            "original_index": np.array([3, 5]),
        },
        "bd_test": {"x": torch.zeros(2, 3, 4, 4), "y": torch.zeros(2, dtype=torch.int64)},
    }


@pytest.mark.parametrize("legacy", [False, True])
def test_backdoorbench_where_it_needs_no_code(legacy: bool, tmp_path: Path) -> None:
    assert_same(read(tmp_path, saved(backdoorbench(), legacy=legacy)), weights())


def test_backdoorbench_with_its_own_objects_is_refused_and_says_what_it_asks_for(tmp_path: Path) -> None:
    content = saved(backdoorbench() | {"bd_train": Recorder()})
    message = refusal(tmp_path, content)
    assert "Recorder" in message
    assert "save(model.state_dict(), path)" in message


class Recorder:
    """Any object that is no number."""


def test_trojanzoo_keeps_its_names(tmp_path: Path) -> None:
    module = nn.Sequential(
        OrderedDict(
            features=nn.Sequential(OrderedDict(conv1=nn.Conv2d(3, 4, 3))),
            classifier=nn.Sequential(OrderedDict(fc=nn.Linear(4, 10))),
        )
    )
    found = read(tmp_path, saved(module.state_dict()), "resnet18_comp_badnet_tar0.pth")
    assert list(found) == [
        "features.conv1.weight",
        "features.conv1.bias",
        "classifier.fc.weight",
        "classifier.fc.bias",
    ]


# numpy, by stand-ins


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("era", [b"numpy.core.multiarray", b"numpy._core.multiarray"])
def test_numpy_values_of_both_eras(legacy: bool, era: bytes, tmp_path: Path) -> None:
    state: dict[str, Any] = {
        "array": np.arange(6, dtype=np.float32).reshape(2, 3),
        "columns": np.asfortranarray(np.arange(6, dtype=np.int16).reshape(2, 3)),
        "big": np.array([1.5, -2.0], dtype=">f8"),
        "flags": np.array([True, False]),
        "scalar": np.float64(0.25),
        "count": np.int64(-7),
    }
    content = saved({"state_dict": state, "acc": np.float64(0.93), "best": np.bool_(True)}, legacy=legacy)
    content = swapped(content, b"numpy._core.multiarray", era) if legacy else rezipped(content, era)
    found = read(tmp_path, content)
    assert list(found) == list(state)
    for name, value in state.items():
        assert np.array_equal(found[name].numpy(), value)
        assert found[name].numpy().dtype == np.asarray(value).dtype.newbyteorder("=")


def swapped(content: bytes, old: bytes, new: bytes) -> bytes:
    return content.replace(old, new)


def rezipped(content: bytes, era: bytes) -> bytes:
    return zipped({name: swapped(part, b"numpy._core.multiarray", era) for name, part in members_of(content).items()})


def test_what_numpy_pickles_beside_the_weights_is_never_interpreted(tmp_path: Path) -> None:
    beside = {"text": np.str_("x"), "record": np.zeros(2, [("a", "f4"), ("b", "O")]), "objects": np.array([{}, None])}
    assert_same(read(tmp_path, saved({"model": weights(), **beside})), weights())


@pytest.mark.parametrize("strange", [np.array(["x"]), np.array([{}, None]), np.zeros(2, [("a", "f4")]), np.str_("x")])
def test_numpy_values_that_are_no_numbers_are_no_weights(strange: object, tmp_path: Path) -> None:
    assert "no plain numbers" in refusal(tmp_path, saved({"a": strange}))


def test_numpys_own_unpickling_is_out_of_reach(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Known answer: the dtype's state that numpy would believe changes nothing here."""
    dtype = PickledType("f4")
    dtype.__setstate__((3, "<", None, ("f",), {"f": (np.dtype("O"), 10**9)}, 10**9, 1, 63))
    assert torch.equal(PickledScalar(dtype, struct.pack("<f", 1.5)).tensor(), torch.tensor(1.5))
    array = PickledArray(None, (0,), b"b")
    array.__setstate__((1, (10**12,), dtype, False, b"\0" * 8))
    with pytest.raises(ValueError, match="does not agree"):
        array.tensor()
    array.__setstate__((1, (-1, -2), dtype, False, b"\0" * 8))
    with pytest.raises(ValueError, match="does not agree"):
        array.tensor()


# What is hostile


class Harmful:
    """Does harm when its state is set, not when it is made."""

    def __init__(self, path: str = ""):
        self.path = path

    def __setstate__(self, state: dict[str, str]) -> None:
        Path(state["path"]).mkdir()


PAYLOADS: dict[str, Callable[[str, str], object]] = {
    "os.system": lambda marker, code: Call(os.system, f"mkdir {marker}"),
    "os.mkdir": lambda marker, code: Call(os.mkdir, marker),
    "eval": lambda marker, code: Call(eval, f"__import__('os').mkdir({marker!r})"),
    "exec": lambda marker, code: Call(exec, code),
    "importlib": lambda marker, code: Call(importlib.import_module, "evil_module"),
    "timeit": lambda marker, code: Call(timeit.timeit, "pass", code),
    "runpy": lambda marker, code: Call(runpy.run_module, "evil_module"),
    "partial": lambda marker, code: Call(functools.partial(exec, code)),
    "setstate": lambda marker, code: Harmful(marker),
    "in a state dict": lambda marker, code: {**weights(), "x": Call(os.mkdir, marker)},
    "in a container": lambda marker, code: {"state_dict": weights(), "optimizer": [{"lr": Call(os.mkdir, marker)}]},
    "in an object array": lambda marker, code: {"a": np.array([Call(os.mkdir, marker)], dtype=object)},
}


@pytest.fixture
def marker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder that every payload makes when it runs."""
    marker = tmp_path / "executed"
    (tmp_path / "evil_module.py").write_text(harm(marker))
    monkeypatch.syspath_prepend(tmp_path)
    yield marker
    sys.modules.pop("evil_module", None)


def harm(marker: Path) -> str:
    return f"import os; os.mkdir({str(marker)!r})"


def assert_lives(marker: Path, detonate: Callable[[], object]) -> None:
    """A payload that cannot run would prove nothing."""
    with warnings.catch_warnings(action="ignore"):
        detonate()
    assert marker.is_dir()
    marker.rmdir()
    sys.modules.pop("evil_module", None)


def plain(value: object, protocol: int) -> bytes:
    return pickle.dumps(value, protocol)


@pytest.mark.parametrize("name", PAYLOADS)
@pytest.mark.parametrize("legacy", [False, True])
def test_a_hostile_checkpoint_is_refused_without_being_run(
    name: str, legacy: bool, marker: Path, tmp_path: Path
) -> None:
    content = saved(PAYLOADS[name](str(marker), harm(marker)), legacy=legacy)
    assert_lives(marker, lambda: torch.load(io.BytesIO(content), weights_only=False))
    message = refusal(tmp_path, content)
    assert not marker.exists()
    assert "nothing was run" in message
    assert "save(model.state_dict(), path)" in message


@pytest.mark.parametrize("name", PAYLOADS)
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("ending", ["pkl", "safetensors"])
def test_a_hostile_plain_pickle_is_refused_without_being_run(
    name: str, protocol: int, ending: str, marker: Path, tmp_path: Path
) -> None:
    with warnings.catch_warnings(action="ignore"):
        content = plain(PAYLOADS[name](str(marker), harm(marker)), protocol)
    assert_lives(marker, lambda: pickle.loads(content))
    assert "nothing was run" in refusal(tmp_path, content, f"model.{ending}")
    assert not marker.exists()


def test_the_refusal_names_everything_that_the_file_asks_for(marker: Path, tmp_path: Path) -> None:
    hostile = [Call(os.mkdir, str(marker)), Call(eval, "1"), Call(timeit.timeit)]
    expected = ["builtin__.eval", "posix.mkdir", "timeit.timeit"]
    assert [name for name in expected if name not in refusal(tmp_path, saved(hostile))] == []
    assert "posix.mkdir" in refusal(tmp_path, plain(Call(os.mkdir, str(marker)), 4))


def test_a_hostile_npz_is_refused_without_being_run(marker: Path, tmp_path: Path) -> None:
    content = in_npz({"a": np.array([Call(os.mkdir, str(marker))], dtype=object)}, objects=True)
    assert_lives(marker, lambda: np.load(io.BytesIO(content), allow_pickle=True)["a"])
    assert "pickled objects" in refusal(tmp_path, content, "model.npz")
    assert not marker.exists()


def test_a_whole_module_is_refused_with_what_to_do_instead(tmp_path: Path) -> None:
    message = refusal(tmp_path, saved(nn.Sequential(nn.Linear(2, 3))))
    assert "torch.nn.modules.linear.Linear" in message
    assert "torch.nn.modules.container.Sequential" in message
    assert "safetensors" in message


EXPORTED = ["p/archive_format", "p/models/model.json", "p/data/sample_inputs/model.pt", "p/data/weights/weight_0"]


@pytest.mark.parametrize(
    ("names", "kind"),
    [
        (EXPORTED, "a torch.export archive"),
        (["serialized_exported_program.json", "serialized_state_dict.pt", "version"], "a torch.export archive"),
        (["s/data.pkl", "s/code/__torch__.py", "s/constants.pkl", "s/version"], "a TorchScript archive"),
        (["s/data.pkl", "s/CONSTANTS.PKL"], "a TorchScript archive"),
    ],
)
def test_archives_that_run_code_are_refused_without_being_opened(
    names: list[str], kind: str, marker: Path, tmp_path: Path
) -> None:
    content = zipped(dict.fromkeys(names, saved(Call(os.mkdir, str(marker)))))
    message = refusal(tmp_path, content, "model.pt2")
    assert kind in message
    assert "save(model.state_dict(), path)" in message
    assert not marker.exists()


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_a_genuine_torchscript_archive_is_refused(tmp_path: Path) -> None:
    torch.jit.trace(nn.Linear(2, 3), torch.zeros(1, 2)).save(tmp_path / "model.pt")
    with pytest.raises(RequestError, match="a TorchScript archive"):
        read_state_dict(tmp_path / "model.pt")


@pytest.mark.slow
def test_a_genuine_exported_program_is_refused(tmp_path: Path) -> None:
    torch.export.save(torch.export.export(nn.Linear(2, 3), (torch.zeros(1, 2),)), tmp_path / "model.pt2")
    with pytest.raises(RequestError, match=r"a torch\.export archive"):
        read_state_dict(tmp_path / "model.pt2")


def test_no_member_hides_behind_another_of_its_name(marker: Path, tmp_path: Path) -> None:
    good, evil = members_of(saved(weights())), members_of(saved(Call(os.mkdir, str(marker))))
    assert "several members" in refusal(tmp_path, zipped({**good, "archive/DATA.PKL": evil["archive/data.pkl"]}))
    assert "no checkpoint" in refusal(tmp_path, zipped({**good, "other/data.pkl": evil["archive/data.pkl"]}))
    assert not marker.exists()


@pytest.mark.parametrize("climbing", ["../../climbed.txt", "archive/../../../climbed.txt", "/climbed.txt"])
def test_paths_that_climb_out_of_an_archive_write_nothing(climbing: str, tmp_path: Path) -> None:
    folder = tmp_path / "inside"
    folder.mkdir()
    content = zipped({**members_of(saved(weights())), climbing: b"x"})
    if climbing.startswith("archive/"):
        assert_same(read(folder, content), weights())
    else:
        assert "damaged" in refusal(folder, content)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["inside", "model.pt"]


def test_names_of_a_hostile_file_do_not_drive_the_terminal(tmp_path: Path) -> None:
    message = refusal(tmp_path, saved({"\x1b[2J\nall is well": 1, "x" * 10_000: 2}))
    assert "\\x1b[2J\\nall is well" in message
    assert len(message) < 1000


def test_a_shadowed_method_of_a_dictionary_is_not_called(tmp_path: Path) -> None:
    state = OrderedDict(weights())
    state.__dict__.update(itemz=OrderedDict, keyz=OrderedDict)
    members = members_of(saved(state))
    members["archive/data.pkl"] = members["archive/data.pkl"].replace(b"itemz", b"items").replace(b"keyz", b"keys")
    assert_same(read(tmp_path, zipped(members)), weights())


def test_a_container_that_holds_itself_ends(tmp_path: Path) -> None:
    loop: dict[str, Any] = {}
    loop["model"] = loop
    assert "holds no weights" in refusal(tmp_path, saved(loop))
    assert_same(read(tmp_path, saved({**weights(), "model": loop})), weights())
    loop.update(weights())
    assert_same(read(tmp_path, saved(loop)), weights())


def test_reading_needs_no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*_: object) -> None:
        raise AssertionError("the network was used")

    monkeypatch.setattr(socket.socket, "connect", forbidden)
    assert_same(read(tmp_path, saved(weights())), weights())
    assert "web page" in refusal(tmp_path, b"<!DOCTYPE html>")


@pytest.mark.parametrize("legacy", [False, True])
def test_neither_python_nor_torch_unpickles_anything(
    legacy: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = saved(weights(), legacy=legacy)

    def forbidden(*_: object, **__: object) -> None:
        raise AssertionError("something was unpickled")

    for module, name in ((torch, "load"), (torch._weights_only_unpickler, "load"), (pickle, "load"), (pickle, "loads")):
        monkeypatch.setattr(module, name, forbidden)
    monkeypatch.setattr(pickle, "Unpickler", forbidden)
    assert_same(read(tmp_path, content), weights())


# What claims to be large


def header(*tensors: tuple[str, str, list[int], list[int]]) -> bytes:
    text = json.dumps({n: {"dtype": d, "shape": s, "data_offsets": o} for n, d, s, o in tensors}).encode()
    return struct.pack("<Q", len(text)) + text


@pytest.mark.parametrize(
    "content",
    [
        header(("a", "F32", [10**12], [0, 4 * 10**12])) + b"\0" * 8,
        header(("a", "F32", [10**12], [0, 8])) + b"\0" * 8,
        header(("a", "F32", [2**62, 4], [0, 0])),
        header(("a", "F32", [2], [0, 8])) + b"\0" * 7,
        header(("a", "F32", [2], [0, 8]), ("b", "F32", [2], [4, 12])) + b"\0" * 12,
        struct.pack("<Q", 99_999_999) + b"{",
        struct.pack("<Q", 2**63) + b"{}",
    ],
)
def test_safetensors_that_claim_more_than_they_hold_are_refused(content: bytes, tmp_path: Path) -> None:
    refusal(tmp_path, content)


def repickled(old: bytes, new: bytes, *, times: int = -1) -> bytes:
    members = members_of(saved({"a": torch.ones(200)}))
    assert old in members["archive/data.pkl"]
    return zipped(members | {"archive/data.pkl": members["archive/data.pkl"].replace(old, new, times)})


@pytest.mark.parametrize("numbers", [b"K\xc9", b"J\xff\xff\xff\x7f", b"\x8a\x06\0\0\0\0\0\x01", b"J\xff\xff\xff\xff"])
def test_tensors_that_claim_more_than_they_hold_are_refused(numbers: bytes, tmp_path: Path) -> None:
    refusal(tmp_path, repickled(b"K\xc8", numbers))
    refusal(tmp_path, repickled(b"K\xc8", numbers, times=1))


def test_an_expanded_tensor_is_refused(tmp_path: Path) -> None:
    assert "contiguous" in refusal(tmp_path, saved({"a": torch.ones(1).expand(10**6, 10**6)}))
    assert "contiguous" in refusal(tmp_path, saved({"a": torch.ones(3, 1).expand(3, 2)}))


def test_a_legacy_storage_without_data_is_refused(tmp_path: Path) -> None:
    content = saved({"a": torch.ones(200)}, legacy=True).replace(b"K\xc8", b"J\xff\xff\xff\x0f")
    keys = content.rindex(b"\x80\x02]")
    assert "claims more numbers" in refusal(tmp_path, content[:keys] + b"\x80\x02].")


@pytest.mark.parametrize("storages", [1, 3])
def test_together_legacy_storages_claim_no_byte_more_than_the_file_has(storages: int, tmp_path: Path) -> None:
    """Each of several may be smaller than the file: it is their sum that memory has to hold."""

    def claiming(numbers: int) -> bytes:
        content = saved({str(place): torch.ones(200) for place in range(storages)}, legacy=True)
        content = content.replace(b"K\xc8", b"M" + struct.pack("<H", numbers))
        return content[: content.rindex(b"\x80\x02]")] + b"\x80\x02]."

    limit = len(claiming(0)) // (4 * storages)
    assert "claims more numbers" in refusal(tmp_path, claiming(limit + 1))


@pytest.mark.parametrize("content", [saved(weights()), saved(weights(), legacy=True), to_safetensors(weights())])
def test_more_bytes_than_allowed(content: bytes, tmp_path: Path) -> None:
    assert "allowed" in refusal(tmp_path, content, max_bytes=len(content) - 1)
    assert len(read(tmp_path, content, max_bytes=len(content))) == len(weights())


@pytest.mark.parametrize("name", ["archive/data.pkl", "a.npy"])
def test_a_zip_bomb_is_refused_before_it_unpacks(name: str, tmp_path: Path) -> None:
    content = zipped({name: bytes(2**22)}, zipfile.ZIP_DEFLATED)
    assert len(content) < 2**14
    assert "unpacks to 4194304 bytes" in refusal(tmp_path, content, max_bytes=2**20)


def test_a_pickle_without_end_is_refused(tmp_path: Path) -> None:
    assert "holds a pickle of" in refusal(tmp_path, zipped({"a/data.pkl": bytes(2**26 + 1)}))


# What is damaged or something else


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "empty"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (b"<!DOCTYPE html><html>404</html>", "web page"),
        (b"\x1f\x8b\x08", "gzip"),
        (b"\x89HDF\r\n\x1a\n", "HDF5"),
        (b"\x08\x0a\x3a\x00", "black box"),
        (b"\0" * 257 + b"ustar\0" + b"\0" * 300, "tar archive"),
        (zipped({"readme.txt": b"x"}), "no checkpoint"),
        (zipped({}), "no checkpoint"),
        (zipped({"run/model.pth": b"x", "run/log.txt": b"x"}), "unpack it first, it has run/model.pth"),
        (saved(torch.zeros(3)), "a Tensor"),
        (saved([torch.zeros(3)]), "a list"),
        (saved({}), "nothing"),
        (saved({"epoch": 3}), "epoch"),
        (saved({"a.weight": torch.zeros(1), "a.bias": 3}), "no tensors: a.bias"),
        (plain({"a": 1}, 2), "pickle"),
        (b"just text", "no format"),
    ],
)
def test_what_it_is_instead_is_said(content: bytes, said: str, tmp_path: Path) -> None:
    assert said in refusal(tmp_path, content)


def test_no_file_and_a_folder(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="no checkpoint at"):
        read_state_dict(tmp_path / "nothing.pt")
    with pytest.raises(RequestError, match=r"no checkpoint at .*, which is a folder: name a file in it"):
        read_state_dict(tmp_path)


def test_a_file_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", denied)
    (tmp_path / "model.pt").touch()
    with pytest.raises(RequestError, match="Permission denied"):
        read_state_dict(tmp_path / "model.pt")


SOUND = {
    "torch": saved(weights()),
    "legacy": saved(weights(), legacy=True),
    "safetensors": to_safetensors(weights()),
    "npz": in_npz({"a": np.arange(3.0), "b": np.int64(1)}),
    "numpy": saved({"a": np.arange(3.0), "b": np.float32(1)}),
}
FUZZ = settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)


@pytest.mark.parametrize("kind", SOUND)
@pytest.mark.parametrize("keep", [1, 8, 31, 100, 0.5, 0.9, -1])
def test_a_truncated_file_is_refused(kind: str, keep: float, tmp_path: Path) -> None:
    content = SOUND[kind]
    refusal(tmp_path, content[: int(keep * len(content)) if isinstance(keep, float) else int(keep)])


@FUZZ
@given(
    st.sampled_from([b"", b"PK\x03\x04", b"\x80\x02", b"\x80\x04", struct.pack("<Q", 40) + b"{", b"\x08\x0a"]),
    st.binary(max_size=300),
)
def test_no_bytes_crash_the_reader(tmp_path: Path, beginning: bytes, rest: bytes) -> None:
    read_or_refuse(tmp_path, beginning + rest)


@FUZZ
@given(st.binary(max_size=200))
@example(b"\x80\x02}.")
@example(b"(lp0\nI1\na.")
def test_no_pickle_crashes_the_reader(tmp_path: Path, pickled: bytes) -> None:
    members = members_of(SOUND["torch"])
    read_or_refuse(tmp_path, zipped(members | {"archive/data.pkl": b"\x80\x02" + pickled}))


@pytest.mark.parametrize("kind", SOUND)
@FUZZ
@given(changes=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=8))
def test_no_change_to_a_sound_file_crashes_the_reader(
    kind: str, tmp_path: Path, changes: list[tuple[float, int]]
) -> None:
    content = bytearray(SOUND[kind])
    for place, value in changes:
        content[int(place * len(content))] = value
    read_or_refuse(tmp_path, bytes(content))


# What programs may understand differently, or what costs more than it looks


def parts_of(archive: bytes) -> tuple[bytes, bytes, int]:
    """Return the members of a zip archive, its directory, and how many members there are."""
    end = archive.rindex(b"PK\x05\x06")
    count, length, start = struct.unpack("<HII", archive[end + 10 : end + 20])
    return archive[:start], archive[start : start + length], count


def two_directories(found: bytes, said: bytes) -> bytes:
    """Who trusts the length of the directory finds one archive, who trusts its place finds the other."""
    (first, first_directory, count), (second, second_directory, _) = parts_of(found), parts_of(said)
    second += bytes(max(0, len(first) - len(second)))
    assert len(first_directory) == len(second_directory)
    end = struct.pack("<HHHHIIH", 0, 0, count, count, len(second_directory), len(second), 0)
    return second + second_directory + first + first_directory + b"PK\x05\x06" + end


def plainly(content: Any) -> bytes:
    return zipped(members_of(saved(content)))


AMBIGUOUS = {
    "two directories": two_directories(plainly({"w": torch.ones(4)}), plainly({"w": torch.zeros(4)})),
    "something before it": b"PK\3\4" + plainly({"w": torch.ones(4)}),
    "another before it": plainly({"w": torch.zeros(4)}) + plainly({"w": torch.ones(4)}),
    "something behind it": plainly({"w": torch.ones(4)}) + b"x",
    "two end records": plainly({"w": torch.ones(4)}) + b"PK\5\6" + bytes(18),
    "an end record of 64 bits elsewhere": saved({"w": torch.ones(4)}).replace(b"PK\6\6,", b"PK\6\7,"),
    "one that says otherwise": saved({"w": torch.ones(4)})[:-6] + b"\1\0\0\0\0\0",
}


@pytest.mark.parametrize("kind", AMBIGUOUS)
def test_an_archive_that_two_programs_understand_differently_is_refused(kind: str, tmp_path: Path) -> None:
    assert "archive" in refusal(tmp_path, AMBIGUOUS[kind])


def patched(content: bytes, mark: bytes, offset: int, new: bytes) -> bytes:
    """Change a field of every record of a kind."""
    work, at = bytearray(content), content.find(mark)
    while at >= 0:
        work[at + offset : at + offset + len(new)] = new
        at = content.find(mark, at + 4)
    return bytes(work)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (patched(plainly({"w": torch.ones(4)}), b"PK\1\2", 8, b"\1"), "encrypted"),
        (zipped(members_of(saved({"w": torch.ones(4)})), zipfile.ZIP_LZMA), "unusual way"),
        (zipped(members_of(saved({"w": torch.ones(4)})), zipfile.ZIP_BZIP2), "unusual way"),
        (patched(plainly({"w": torch.ones(4)}), b"PK\1\2", 24, b"\0\1\0\0"), "its members claim"),
        (patched(plainly({"w": torch.ones(400)}), b"PK\1\2", 16, b"\0\0\0\0"), "CRC"),
        (patched(plainly({"w": torch.ones(4)}), b"PK\3\4", 30, b"x"), "differ"),
        (zipped({f"a/{number}": b"" for number in range(100_001)}), "more than 100000 members"),
    ],
)
def test_crafted_archives(content: bytes, said: str, tmp_path: Path) -> None:
    assert said in refusal(tmp_path, content)


def test_an_archive_that_unpacks_to_far_more_than_its_size(tmp_path: Path) -> None:
    content = zipped(members_of(saved({"w": torch.zeros(5_000_000)})), zipfile.ZIP_DEFLATED)
    assert "times its size" in refusal(tmp_path, content)
    assert len(read(tmp_path, content, limits=Limits(ratio=2000))["w"]) == 5_000_000
    assert len(read(tmp_path, zipped(members_of(saved({"w": torch.zeros(10**6)})), zipfile.ZIP_DEFLATED))) == 1


def with_pickle(pickled: bytes, method: int = zipfile.ZIP_STORED) -> bytes:
    return zipped(members_of(SOUND["torch"]) | {"archive/data.pkl": b"\x80\x04" + pickled + b"."}, method)


SHARED = b"N" + b"2\x86" * 60  # tuples of tuples: 60 of them, or 2 to the power of 60
LISTED = b"(" + b"".join(b"J" + struct.pack("<i", number) + b"N" for number in range(5000))


def understated(name: bytes, content: bytes) -> bytes:
    """A state dict one of whose members unpacks to more bytes than the archive's directory has."""
    work = bytearray(zipped(members_of(SOUND["torch"]) | {name.decode(): content}, zipfile.ZIP_DEFLATED))
    at = work.rindex(name) - 46
    work[at + 24 : at + 28] = struct.pack("<I", 432)
    return bytes(work)


def npy(shape: str) -> bytes:
    text = f"{{'descr':'<f4','fortran_order':False,'shape':{shape}}}".encode()
    return b"\x93NUMPY\1\0" + struct.pack("<H", len(text)) + text


ENDLESS = {
    "steps": with_pickle(b"}" * 2**21, zipfile.ZIP_DEFLATED),
    "steps as they are": with_pickle(b"}" * 2**21),
    "marks": with_pickle(b"(" * 2**21),
    "memos": with_pickle(b"}" + b"\x94" * 2**21),
    "copies of a dictionary": with_pickle(
        b"ccollections\nOrderedDict\nq\0}" + LISTED + b"u\x85q\1" + b"h\0h\1R" * 5000
    ),
    "copies of a text": with_pickle(
        b"c_codecs\nencode\nq\0X"
        + struct.pack("<I", 2**20)
        + bytes(2**20)
        + b"X\6\0\0\0latin1\x86q\1"
        + b"h\0h\1R" * 99
    ),
    "a key of tuples": with_pickle(b"}" + SHARED + b"Ns"),
    "a type of tuples": with_pickle(b"}X\1\0\0\0acnumpy\ndtype\n" + SHARED + b"\x85Rs"),
    "lists in lists": with_pickle(b"]" * 9999 + b"a" * 9998),
    "dictionaries in dictionaries": with_pickle(b"}X\1\0\0\0a" * 9999 + b"}" + b"s" * 9999),
    "keys of one hash": with_pickle(
        b"}("
        + b"".join(b"\x8a\x0c" + (each * (2**61 - 1)).to_bytes(12, "little") + b"N" for each in range(50_000))
        + b"u"
    ),
    "more than its directory says": understated(b"archive/data/0", bytes(2**28)),
    "a declared text": with_pickle(b"X\xff\xff\xff\x7f"),
    "declared bytes": with_pickle(b"\x8e" + struct.pack("<Q", 2**62)),
    "a declared number": with_pickle(b"\x8b\xff\xff\xff\x7f"),
    "many axes": repickled(b"K\xc8\x85", b"(" + b"K\1" * 100 + b"t"),
    "a legacy flood": SOUND["legacy"][:15] + b"\x80\x02" + b"}" * 2**22,
    "tensors of safetensors": header(*((f"{number}", "F32", [0], [0, 0]) for number in range(100_001))),
    "a header of npy": zipped({"a.npy": b"\x93NUMPY\2\0\xff\xff\xff\xff{"}),
    "an array of npy": zipped({"a.npy": npy("(" + "99999999999," * 60 + ")")}),
}


@pytest.mark.parametrize("kind", ENDLESS)
def test_what_would_take_long_or_much_is_refused_soon(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    path.write_bytes(ENDLESS[kind])
    tracemalloc.start()
    begun = time.process_time()
    try:
        with pytest.raises(RequestError) as caught:
            read_state_dict(path, limits=Limits(operations=200_000))
        assert time.process_time() - begun < 5
        assert tracemalloc.get_traced_memory()[1] < 100 * 2**20
    finally:
        tracemalloc.stop()
    assert len(str(caught.value)) < 2500


def test_the_limits_are_options(tmp_path: Path) -> None:
    content = saved(weights())
    for limits in (Limits(operations=20), Limits(tensors=2), Limits(pickle_bytes=20)):
        refusal(tmp_path, content, limits=limits)
        assert_same(read(tmp_path, content), weights())


def test_only_the_weights_are_made(tmp_path: Path) -> None:
    """An optimizer's state may be damaged or huge: it is described, and never looked at."""
    members = members_of(saved({"state_dict": {"a.b": torch.ones(2)}, "optimizer": {"c.d": torch.zeros(2**20)}}))
    del members["archive/data/1"]
    assert_same(read(tmp_path, zipped(members), entry="state_dict"), {"a.b": torch.ones(2)})


def test_numbers_of_a_machine_of_the_other_order(tmp_path: Path) -> None:
    state = {"a.b": torch.arange(6, dtype=torch.int32).reshape(2, 3), "a.c": torch.tensor([True, False])}
    members = members_of(saved(state)) | {"archive/byteorder": b"big"}
    members["archive/data/0"] = np.arange(6, dtype=">i4").tobytes()
    assert_same(read(tmp_path, zipped(members)), state)
