"""Checkpoints as training code writes them: the weights are found among what else it keeps, or the message says how."""

import argparse
import array
import datetime
import enum
import functools
import http
import io
import ipaddress
import pathlib
import platform
import random
import re
import sys
import time
import types
import uuid
from collections import ChainMap, Counter, OrderedDict, UserDict, defaultdict, deque, namedtuple
from collections.abc import Callable, Iterator
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from checkpoint_files import Call, assert_same, members_of, read, read_or_refuse, refusal, saved, weights, zipped
from gifthorse.checkpoints import plain_values

# What training code keeps beside the weights


class Colour(enum.Enum):
    RED = 1


Point = namedtuple("Point", "x y")

PLAIN: dict[str, object] = {
    "Namespace": argparse.Namespace(
        lr=0.1, data=Path("/data"), device=torch.device("cuda"), dtype=[torch.float16, torch.complex64]
    ),
    "SimpleNamespace": types.SimpleNamespace(a=1, inner=types.SimpleNamespace(b=[2])),
    "dates": [
        datetime.datetime(2024, 1, 2, 3, tzinfo=datetime.UTC),
        datetime.date(2024, 1, 2),
        datetime.time(3),
        datetime.timedelta(hours=1),
    ],
    "paths": [pathlib.PurePosixPath("a/b"), pathlib.PureWindowsPath("a"), Path("x")],
    "keys": {Path("x"): 1, datetime.date(2024, 1, 2): 2, frozenset([3]): 3},
    "defaultdicts": [defaultdict(kind, {"a": kind()}) for kind in (list, int, float, dict, set, str, bool, tuple)],
    "deque": deque([1.0, {"a": 2}], maxlen=5),
    "counters": [Counter("aab"), ChainMap({"a": 1}), UserDict(a=1), OrderedDict(a=1)],
    "uuid": uuid.UUID(int=5),
    "numbers": [Decimal("0.1"), Fraction(1, 3), 2**80, complex(1, 2), range(3), slice(1, 2), b"raw", b"", ...],
    "sets": [{1, 2}, frozenset(), frozenset({"a"})],
    "arrays": [array.array("i", [1, 2]), np.arange(3), np.float32(0.5), np.bool_(True), np.datetime64("2024-01-02")],
    "numpy types": [np.float32, np.int64, np.dtype("f4"), np.random.RandomState(0).get_state()],
    "times": [time.gmtime(0), platform.uname()],
    "versions": torch.__version__,
    "rare ones": [
        http.HTTPStatus.OK,
        ipaddress.ip_address("::1"),
        re.compile("a"),
        random.Random(0),
        torch.Generator(),
    ],
    "other arrays": [
        np.ma.array([1, 2], mask=[False, True]),
        np.rec.array([(1, 2.0)]),
        np.array(["a"]),
        np.array([{}, None]),
    ],
    "partial": functools.partial(int, base=2),
    "random state": [random.getstate(), torch.get_rng_state()],
}


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("name", PLAIN)
def test_plain_data_beside_the_weights_is_passed_over(
    name: str, legacy: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    content = saved({"state_dict": weights(), "beside": PLAIN[name], "later": [PLAIN[name]]}, legacy=legacy)
    assert_same(read(tmp_path, content), weights())
    assert caplog.messages == []
    assert_same(read(tmp_path, saved({**weights(), "beside": PLAIN[name]}, legacy=legacy)), weights())


@pytest.mark.parametrize(
    ("name", "python_3_13"), [(b"cpathlib\n", b"cpathlib._local\n"), (b"clightning", b"clightning")]
)
def test_names_of_other_versions(name: bytes, python_3_13: bytes, tmp_path: Path) -> None:
    members = members_of(saved({"state_dict": weights(), "dir": Path("x")}))
    members["archive/data.pkl"] = members["archive/data.pkl"].replace(name, python_3_13)
    assert_same(read(tmp_path, zipped(members)), weights())


MADE = {
    "pytorch_lightning.utilities.parsing.AttributeDict": dict,
    "lightning.fabric.utilities.data.AttributeDict": dict,
    "easydict.EasyDict": dict,
    "yacs.config.CfgNode": dict,
    "mmengine.logging.history_buffer.HistoryBuffer": object,
}


@pytest.fixture
def foreign() -> Iterator[Callable[[str, type], type]]:
    """Make a class of a package that is not installed, for as long as something of it is being pickled."""
    made: list[str] = []

    def make(name: str, base: type) -> type:
        module, _, leaf = name.rpartition(".")
        cls = type(leaf, (base,), {"__module__": module, "__qualname__": leaf})
        parts = module.split(".")
        for count in range(1, len(parts) + 1):
            name = ".".join(parts[:count])
            if name not in sys.modules:
                sys.modules[name] = types.ModuleType(name)
                made.append(name)
        setattr(sys.modules[module], leaf, cls)
        return cls

    yield make
    for name in made:
        del sys.modules[name]


@pytest.mark.parametrize("name", MADE)
def test_dictionaries_of_libraries_are_read_as_plain_ones(
    name: str, foreign: Callable[[str, type], type], tmp_path: Path
) -> None:
    value = foreign(name, MADE[name])()
    vars(value).update(lr=0.1, levels=3)
    if isinstance(value, dict):
        value.update(lr=0.1, inner=type(value)(a=[1]))
    assert_same(read(tmp_path, saved({"hyper_parameters": value, "state_dict": weights()})), weights())


@pytest.mark.parametrize(
    ("name", "base"), [("omegaconf.dictconfig.DictConfig", object), ("mycode.config.Options", dict)]
)
def test_objects_of_other_code_are_refused_by_name(
    name: str, base: type, foreign: Callable[[str, type], type], tmp_path: Path
) -> None:
    message = refusal(tmp_path, saved({"hyper_parameters": foreign(name, base)(), "state_dict": weights()}))
    assert name in message
    assert "save(model.state_dict(), path)" in message


@pytest.mark.parametrize("value", [Colour.RED, Point(1, 2), functools.partial(print), print, Call(getattr, "a", "b")])
def test_what_would_have_to_be_imported_or_called_is_refused(value: object, tmp_path: Path) -> None:
    assert "nothing was run" in refusal(tmp_path, saved({"state_dict": weights(), "beside": value}))


def test_stand_ins_keep_and_run_nothing() -> None:
    """Whatever a pickle does with them: call them, call what they make, set their state."""
    ran: list[object] = []
    stand_ins: dict[str, Any] = {**plain_values.STAND_INS}
    for name, stand_in in stand_ins.items():
        for made in (stand_in(ran.append, 1), stand_in.__new__(stand_in, ran.append, 1)):
            if hasattr(made, "__setstate__"):
                made.__setstate__((ran.append, (1,), {}, {"__class__": ran.append}))
            assert not callable(made), name
            assert not getattr(made, "__dict__", {}), name
            assert isinstance(made, plain_values.Unread) or not made, name
    assert ran == []


@pytest.mark.parametrize(
    "pickled",
    [
        # functools.partial(object)() ; Namespace as a dictionary, as a list ; the state of a class
        b"cfunctools\npartial\n(c__builtin__\nobject\ntR)R.",
        b"cargparse\nNamespace\n)\x81X\x01\x00\x00\x00aK\x01s.",
        b"cargparse\nNamespace\n)\x81K\x01a.",
        b"cargparse\nNamespace\n}b.",
        b"ccollections\ndefaultdict\n}b.",
    ],
)
def test_what_no_plain_value_does_is_refused(pickled: bytes, tmp_path: Path) -> None:
    members = members_of(saved(weights()))
    refusal(tmp_path, zipped({**members, "archive/data.pkl": b"\x80\x02" + pickled}))


# Where the weights are


def optimizer_state() -> dict[str, Any]:
    """Return what an optimizer saves after a step, with tensors of its own."""
    model = nn.Linear(2, 2)
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    return optimizer.state_dict()


def ema() -> dict[str, Any]:
    return {"n_averaged": torch.tensor(3), **{f"module.{name}": each for name, each in weights().items()}}


def as_defaultdict(values: dict[str, Any]) -> dict[str, Any]:
    return defaultdict(list, values)


OTHER = {"deconv.weight": torch.zeros(2)}
AROUND: dict[str, tuple[Callable[[], object], str]] = {
    "torchvision's reference": (
        lambda: {
            "model": weights(),
            "optimizer": optimizer_state(),
            "lr_scheduler": {"last_epoch": 3, "_last_lr": [0.1]},
            "epoch": 3,
            "args": argparse.Namespace(lr=0.1),
            "model_ema": ema(),
            "scaler": {"scale": 65536.0},
        },
        "entry 'model'; there are others, to be chosen with entry=: model_ema",
    ),
    "timm": (
        lambda: {
            "epoch": 3,
            "arch": "resnet18",
            "state_dict": weights(),
            "optimizer": optimizer_state(),
            "version": 2,
            "args": argparse.Namespace(lr=0.1),
            "amp_scaler": {},
            "state_dict_ema": ema(),
            "metric": np.float64(0.9),
        },
        "entry 'state_dict'; there are others, to be chosen with entry=: state_dict_ema",
    ),
    "Lightning": (
        lambda: {
            "epoch": 3,
            "pytorch-lightning_version": "2.2.0",
            "state_dict": weights(),
            "loops": {"fit_loop": {"state_dict": {}, "epoch_loop.state_dict": {"_batches_that_stepped": 4}}},
            "callbacks": {"ModelCheckpoint{'monitor': 'val'}": {"best_model_score": torch.tensor(0.9)}},
            "optimizer_states": [optimizer_state()],
            "hyper_parameters": {"lr": 0.1, "path": Path("x")},
        },
        "",
    ),
    "WaNet": (
        lambda: {"netC": weights(), "optimizerC": optimizer_state(), "identity_grid": torch.zeros(1, 8, 8, 2)},
        "the weights are those of its entry 'netC'",
    ),
    "WaNet with its generator": (
        lambda: {"netC": weights(), "netG": OTHER},
        "entry 'netC'; there are others, to be chosen with entry=: netG",
    ),
    "one more level": (lambda: {"checkpoint": {"state_dict": weights(), "epoch": 3}}, "entry 'checkpoint.state_dict'"),
    "a list of one": (lambda: {"state_dict": [weights()], "err": 0.1}, ""),
    "a tuple": (lambda: (weights(), 0.93, {"epoch": 3}), ""),
    "an unheard name": (
        lambda: {"my_network": weights(), "opt": optimizer_state(), "mean": torch.zeros(3)},
        "my_network",
    ),
    "only an average": (lambda: {"ema_weights": weights(), "epoch": 3}, "entry 'ema_weights'"),
    "a loss with weights": (lambda: {"best": weights(), "criterion": {"weight": torch.ones(3)}}, "entry 'best'"),
    "a defaultdict": (lambda: as_defaultdict({"state_dict": as_defaultdict(weights())}), ""),
    "numbers among weights": (
        lambda: {**weights(), "epoch": 3, "best_acc": None, "arch": "resnet18", "conv._extra_state": {"a": 1}},
        "what is no tensor is left out: epoch, best_acc, arch, conv._extra_state",
    ),
    "an optimizer among weights": (lambda: {**weights(), "optimizer": optimizer_state()}, "left out: optimizer"),
}


@pytest.mark.parametrize("kind", AROUND)
def test_the_weights_are_found_wherever_training_code_keeps_them(
    kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    make, said = AROUND[kind]
    assert_same(read(tmp_path, saved(make())), weights())
    assert (said in " | ".join(caplog.messages)) if said else caplog.messages == []


def test_an_entry_may_be_a_path(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    content = saved({"checkpoint": {"state.dict": [OTHER, weights()]}, "a.b": {"a.weight": torch.ones(1)}})
    assert_same(read(tmp_path, content, entry="checkpoint.state.dict.1"), weights())
    assert_same(read(tmp_path, content, entry="a.b"), {"a.weight": torch.ones(1)})
    assert caplog.messages == []
    message = refusal(tmp_path, content, entry="checkpoint")
    assert "name one with entry=: checkpoint.state.dict.0, checkpoint.state.dict.1" in message


@pytest.mark.parametrize(
    ("content", "entry", "said"),
    [
        ({"teacher": OTHER, "student": OTHER}, None, "name one with entry=: teacher, student"),
        ([OTHER, OTHER], None, "name one with entry=: 0, 1"),
        ({"state_dict": {}, "epoch": 3}, None, "it has state_dict (an empty dictionary), epoch (a number)"),
        ({"state_dict": "path/to", "args": argparse.Namespace()}, None, "state_dict (text), args (a Namespace)"),
        ({"state_dict": [], "err": None}, None, "state_dict (an empty list), err (nothing)"),
        ({"weights": [torch.ones(1)]}, None, "weights (a list)"),
        ({"optimizer": optimizer_state()}, None, "optimizer (a dictionary)"),
        (argparse.Namespace(state_dict=OTHER), None, "it has a Namespace"),
        ({"model": OTHER, "epoch": 3}, "epoch", "the entry 'epoch' of"),
        ({"model": OTHER, "epoch": 3}, "model.x", "no entry 'model.x'; it has model (a dictionary), epoch (a number)"),
        ({"model": OTHER}, "\x1b[2J", "no entry '\\x1b[2J'"),
        ({"conv.weight": torch.ones(1), "conv.bias": [0.1]}, None, "among its weights that are no tensors: conv.bias"),
    ],
)
def test_what_a_file_has_instead_of_weights_is_said_without_contradiction(
    content: object, entry: str | None, said: str, tmp_path: Path
) -> None:
    message = refusal(tmp_path, saved(content), entry=entry)
    assert said in message
    assert "no state dict" not in message


@pytest.mark.parametrize("shape", ["loop", "shared"])
def test_knots_of_containers_cost_no_more_than_their_size(shape: str, tmp_path: Path) -> None:
    inner: dict[str, Any] = {}
    knot = inner
    for level in range(200):
        knot = {"a": knot, "b": knot, f"{level}": knot}
    if shape == "loop":
        inner["a"] = knot
    assert "holds no weights" in refusal(tmp_path, saved(knot))
    inner["model"] = weights()
    read_or_refuse(tmp_path, saved(knot))


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
@pytest.mark.parametrize(
    "tensor",
    [
        lambda: torch.quantize_per_tensor(torch.ones(2, 2), 0.1, 0, torch.qint8),
        lambda: torch.ones(2, 2).to_sparse(),
        lambda: torch.ones(2, dtype=torch.complex64),
        lambda: torch.ones(2).to(torch.float8_e4m3fn),
    ],
)
def test_tensors_of_other_kinds_are_told_from_code(tensor: Callable[[], Tensor], tmp_path: Path) -> None:
    message = refusal(tmp_path, saved({"conv.weight": tensor()}))
    assert "save the weights as dense float tensors" in message
    assert "run" not in message


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_any_binary_protocol_is_read(protocol: int, legacy: bool, tmp_path: Path) -> None:
    options: dict[str, Any] = {"pickle_protocol": protocol, "_use_new_zipfile_serialization": not legacy}
    beside = {
        "array": np.arange(3),
        "set": {1, 2},
        "bytes": b"\xff",
        "path": Path("x"),
        "deep": defaultdict(list, a=[]),
    }
    torch.save({"model": weights(), **beside}, stream := io.BytesIO(), **options)
    assert_same(read(tmp_path, stream.getvalue()), weights())
    torch.save({"a.b": np.arange(6.0).reshape(2, 3).T}, stream := io.BytesIO(), **options)
    assert_same(read(tmp_path, stream.getvalue()), {"a.b": torch.arange(6.0, dtype=torch.float64).reshape(2, 3).T})
    torch.save({**weights(), "x": Colour.RED, "y": Call(print, "y")}, stream := io.BytesIO(), **options)
    message = refusal(tmp_path, stream.getvalue())
    assert f"builtin{'s' if protocol > 2 else '__'}.print" in message
    assert f"{__name__}.Colour; nothing was run" in message
