"""An ONNX black box: right answers where onnxruntime is, one clear line where it is not, and no way out of its folder.

The models are written by hand in protobuf, so that neither onnx nor an exporter is needed.
"""

import copy
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gifthorse.checkpoints.onnx_graph import external_files, is_onnx
from gifthorse.checkpoints.onnx_model import OnnxModel
from gifthorse.core.classifier import predict
from gifthorse.core.errors import RequestError
from gifthorse.core.images import Images
from gifthorse.core.views import ModelView
from gifthorse.defenses import DEFENSES
from onnx_files import field, node, tensor, value_info

WEIGHT = np.arange(12, dtype=np.float32).reshape(4, 3) / 7


def model(
    *, batch: int | str = "n", size: int | str = 2, location: str | None = None, domain: str = "", outputs: int = 1
) -> bytes:
    """Return the model that flattens ``(N, 1, 2, 2)`` and multiplies with ``WEIGHT``."""
    graph = [
        field(1, node("Reshape", ["x", "shape"], "flat")),
        field(1, node("MatMul", ["flat", "w"], "y", domain)),
        field(2, "graph"),
        field(5, tensor("w", WEIGHT, location)),
        field(5, tensor("shape", np.array([-1, 4]))),
        field(11, value_info("x", batch, 1, size, size)),
        field(12, value_info("y", batch, 3)),
        *[field(12, value_info("flat", batch, 4))] * (outputs - 1),
    ]
    imported = field(8, field(1, "") + field(2, 13)) + (field(8, field(1, domain) + field(2, 1)) if domain else b"")
    return field(1, 8) + field(2, "pytorch") + field(7, b"".join(graph)) + imported


def written(folder: Path, content: bytes) -> Path:
    path = folder / "model.onnx"
    path.write_bytes(content)
    return path


def expected(pixels: torch.Tensor) -> torch.Tensor:
    return pixels.flatten(1) @ torch.from_numpy(WEIGHT)


class Argument:
    def __init__(self, name: str, shape: list[int | str]):
        self.name, self.shape, self.type = name, shape, "tensor(float)"


class StubSession:
    """Answers as onnxruntime would for :func:`model`."""

    def __init__(self, path: str, options: object, providers: list[str]):
        assert providers == ["CPUExecutionProvider"]
        self.batches: list[int] = []
        self.batch: int | str = 2 if b"fixed" in Path(path).read_bytes() else "n"

    def get_inputs(self) -> list[Argument]:
        return [Argument("x", [self.batch, 1, 2, 2])]

    def get_outputs(self) -> list[Argument]:
        return [Argument("y", [self.batch, 3])]

    def run(self, names: None, feed: dict[str, np.ndarray]) -> list[np.ndarray]:
        assert feed["x"].dtype == np.float32
        self.batches.append(len(feed["x"]))
        return [feed["x"].reshape(-1, 4) @ WEIGHT]


@pytest.fixture(params=["stub", "onnxruntime"])
def runtime(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """onnxruntime where it is installed, and always a stand-in."""
    if request.param == "onnxruntime":
        pytest.importorskip("onnxruntime")
    else:
        stub = types.ModuleType("onnxruntime")
        vars(stub).update(SessionOptions=types.SimpleNamespace, InferenceSession=StubSession)
        monkeypatch.setitem(sys.modules, "onnxruntime", stub)
    return str(request.param)


PIXELS = torch.rand(5, 1, 2, 2, generator=torch.Generator().manual_seed(0))


def test_gives_the_models_logits(runtime: str, tmp_path: Path) -> None:
    black_box = OnnxModel(written(tmp_path, model()))
    assert (black_box.classes, black_box.shape) == (3, (1, 2, 2))
    torch.testing.assert_close(black_box(PIXELS), expected(PIXELS))
    torch.testing.assert_close(predict(black_box.eval(), PIXELS), expected(PIXELS))
    assert black_box(PIXELS[:0]).shape == (0, 3)
    assert not black_box(PIXELS).requires_grad
    assert list(black_box.parameters()) == []


def test_a_fixed_batch_size_is_filled_up(runtime: str, tmp_path: Path) -> None:
    black_box = OnnxModel(written(tmp_path, model(batch=2) + field(6, "fixed")))
    torch.testing.assert_close(black_box(PIXELS), expected(PIXELS))
    if runtime == "stub":
        assert black_box._session.batches == [2, 2, 2, 2]


def test_normalises_for_a_model_that_expects_it(runtime: str, tmp_path: Path) -> None:
    black_box = OnnxModel(written(tmp_path, model()), mean=[0.5], std=[0.25])
    torch.testing.assert_close(black_box(PIXELS), expected((PIXELS - 0.5) / 0.25))


def test_gradients_are_refused_and_inference_is_not(runtime: str, tmp_path: Path) -> None:
    black_box = OnnxModel(written(tmp_path, model()))
    pixels = PIXELS.clone().requires_grad_()
    with pytest.raises(RequestError, match="no gradients"):
        black_box(pixels)
    with torch.no_grad():
        torch.testing.assert_close(black_box(pixels), expected(PIXELS))


def test_copies_share_the_session(runtime: str, tmp_path: Path) -> None:
    black_box = OnnxModel(written(tmp_path, model()))
    for twin in (copy.deepcopy(black_box), black_box.clone()):
        assert torch.equal(twin(PIXELS), black_box(PIXELS))


def test_images_of_another_size_are_one_clear_line(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    black_box = OnnxModel(written(tmp_path, model()))
    with pytest.raises(RequestError, match=r"failed on images \(1, 1, 3, 3\)"):
        black_box(torch.zeros(1, 1, 3, 3))


def test_an_open_image_size_is_asked_for(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    path = written(tmp_path, model(size="side"))
    with pytest.raises(RequestError, match="say it with shape"):
        OnnxModel(path)
    torch.testing.assert_close(OnnxModel(path, shape=(1, 2, 2))(PIXELS), expected(PIXELS))
    with pytest.raises(RequestError, match="is for images"):
        OnnxModel(path, shape=(3, 2, 2))


def test_two_outputs_are_refused(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    with pytest.raises(RequestError, match="it should have one"):
        OnnxModel(written(tmp_path, model(outputs=2)))


def test_custom_operators_are_refused(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    with pytest.raises(RequestError, match="custom operators are never loaded"):
        OnnxModel(written(tmp_path, model(domain="evil")))


def test_without_onnxruntime_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(RequestError, match=r"pip install 'gifthorse\[onnx\]'"):
        OnnxModel(written(tmp_path, model()))


def graph_of(
    nodes: list[bytes], shape: list[int | str], outputs: dict[str, list[int | str]], kind: int = 1, **more: np.ndarray
) -> bytes:
    """Return a model that is made of nodes over ``x`` and ``more`` tensors; ``kind`` is its type of numbers in ONNX."""
    graph = [
        *[field(1, each) for each in nodes],
        field(2, "graph"),
        field(5, typed("w", WEIGHT if kind == 1 else WEIGHT.astype(np.float16), kind)),
        field(5, tensor("shape", np.array([-1, 4]))),
        field(5, tensor("maps", np.array([-1, 3, 1, 1]))),
        *[field(5, tensor(name, values)) for name, values in more.items()],
        field(11, typed_info("x", kind, *shape)),
        *[field(12, typed_info(name, kind, *sizes)) for name, sizes in outputs.items()],
    ]
    return field(1, 8) + field(2, "pytorch") + field(7, b"".join(graph)) + field(8, field(1, "") + field(2, 13))


def typed(name: str, values: np.ndarray, kind: int) -> bytes:
    return (
        b"".join(field(1, size) for size in values.shape) + field(2, kind) + field(8, name) + field(9, values.tobytes())
    )


def typed_info(name: str, kind: int, *sizes: int | str) -> bytes:
    dimensions = b"".join(field(1, field(1, size) if isinstance(size, int) else field(2, size)) for size in sizes)
    return field(1, name) + field(2, field(1, field(1, kind) + field(2, dimensions)))


FLAT, PRODUCT = node("Reshape", ["x", "shape"], "flat"), node("MatMul", ["flat", "w"], "y")


def test_channels_come_last_where_the_model_wants_them(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    means = [node("GlobalAveragePool", ["t"], "p")]
    turn = field(5, field(1, "perm") + field(20, 7) + b"".join(field(8, axis) for axis in (0, 3, 1, 2)))
    nodes = [node("Transpose", ["x"], "t") + turn, *means, node("Flatten", ["p"], "y")]
    pixels = torch.rand(5, 3, 8, 6, generator=torch.Generator().manual_seed(0))
    path = written(tmp_path, graph_of(nodes, ["n", 8, 6, 3], {"y": ["n", 3]}))
    for black_box in (OnnxModel(path), OnnxModel(path, shape=(3, 8, 6))):
        assert (black_box.shape, black_box.classes) == ((3, 8, 6), 3)
        torch.testing.assert_close(black_box(pixels), pixels.mean((2, 3)))
    scaled = OnnxModel(path, mean=[0.1, 0.2, 0.3], std=[1.0, 2.0, 4.0])
    expected = (pixels.mean((2, 3)) - torch.tensor([0.1, 0.2, 0.3])) / torch.tensor([1.0, 2.0, 4.0])
    torch.testing.assert_close(scaled(pixels), expected)
    with pytest.raises(RequestError, match="mean and std have a number for each"):
        OnnxModel(path, mean=[0.5])
    with pytest.raises(RequestError, match=r"not \(C, H, W\) = \(3, 6, 8\)"):
        OnnxModel(path, shape=(3, 6, 8))


def test_an_open_layout_is_found_by_trying(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    weight = np.zeros((3, 3, 1, 1), np.float32)
    weight[range(3), range(3)] = 1
    turn = field(5, field(1, "perm") + field(20, 7) + b"".join(field(8, axis) for axis in (0, 3, 1, 2)))
    nodes = [node("Transpose", ["x"], "t") + turn, node("Conv", ["t", "k"], "c"), node("GlobalAveragePool", ["c"], "y")]
    content = graph_of(nodes, ["n", "h", "w", "c"], {"y": ["n", 3, 1, 1]}, k=weight)
    black_box = OnnxModel(written(tmp_path, content), shape=(3, 8, 6))
    pixels = torch.rand(5, 3, 8, 6, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(black_box(pixels), pixels.mean((2, 3)))


def test_logits_may_have_places(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    nodes = [FLAT, PRODUCT, node("Reshape", ["y", "maps"], "z")]
    black_box = OnnxModel(written(tmp_path, graph_of(nodes, ["n", 1, 2, 2], {"z": ["n", 3, 1, 1]})))
    assert black_box.classes == 3
    torch.testing.assert_close(black_box(PIXELS), expected(PIXELS))


@pytest.mark.parametrize("batch", ["n", 2])
def test_half_precision_is_asked_in_half_precision(tmp_path: Path, batch: int | str) -> None:
    pytest.importorskip("onnxruntime")
    path = written(tmp_path, graph_of([FLAT, PRODUCT], [batch, 1, 2, 2], {"y": [batch, 3]}, kind=10))
    found = OnnxModel(path)(PIXELS)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected(PIXELS), atol=2e-3, rtol=2e-3)


def test_of_several_outputs_the_logits_are_those_called_so_or_named(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    nodes = [FLAT, node("MatMul", ["flat", "w"], "logits")]
    path = written(tmp_path, graph_of(nodes, ["n", 1, 2, 2], {"flat": ["n", 4], "logits": ["n", 3]}))
    torch.testing.assert_close(OnnxModel(path)(PIXELS), expected(PIXELS))
    assert OnnxModel(path, output="flat").classes == 4
    with pytest.raises(RequestError, match="unless output says which"):
        OnnxModel(path, output="y")


@pytest.mark.parametrize(("last", "undone"), [("Softmax", True), ("LogSoftmax", False), ("Sigmoid", True)])
def test_probabilities_are_refused_or_undone(tmp_path: Path, last: str, undone: bool) -> None:
    pytest.importorskip("onnxruntime")
    path = written(tmp_path, graph_of([FLAT, PRODUCT, node(last, ["y"], "z")], ["n", 1, 2, 2], {"z": ["n", 3]}))
    if last == "Softmax":
        with pytest.raises(RequestError, match="ends in a softmax"):
            OnnxModel(path)
    black_box = OnnxModel(path, probabilities=undone)
    wanted = expected(PIXELS)
    wanted = wanted if last == "Sigmoid" else wanted.log_softmax(1)
    torch.testing.assert_close(black_box(PIXELS), wanted, atol=1e-4, rtol=1e-4)
    if last == "Softmax":
        plain = written(tmp_path, graph_of([FLAT, PRODUCT], ["n", 1, 2, 2], {"y": ["n", 3]}))
        with pytest.raises(RequestError, match="are no probabilities"):
            OnnxModel(plain, probabilities=True)


def test_defenses_that_ask_for_answers_run_and_others_say_that_they_cannot(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    black_box = OnnxModel(written(tmp_path, model()))
    images = Images(torch.randint(0, 256, (40, 1, 2, 2), dtype=torch.uint8), torch.arange(40) % 3, 3)
    for name in ("abs", "fine_pruning", "neural_cleanse", "nad", "aegis"):
        assert "black box (OnnxModel)" in str(DEFENSES.build(name).skip(ModelView(black_box, images)))  # type: ignore[arg-type]
    method = DEFENSES.build("strip[overlays=8]")
    view = ModelView(black_box, images)  # type: ignore[arg-type]
    assert method.skip(view) is None
    assert method.defend(view, 0).score(images.floats()[:3]).isfinite().all()  # type: ignore[attr-defined]
    small = Images(torch.zeros(40, 1, 3, 3, dtype=torch.uint8), torch.arange(40) % 3, 3)
    assert "failed on images" in str(method.skip(ModelView(black_box, small)))  # type: ignore[arg-type]


# Files outside


def test_tensors_in_a_file_beside_the_model(runtime: str, tmp_path: Path) -> None:
    (tmp_path / "model.onnx.data").write_bytes(WEIGHT.tobytes())
    black_box = OnnxModel(written(tmp_path, model(location="model.onnx.data")))
    torch.testing.assert_close(black_box(PIXELS), expected(PIXELS))


class NeverSession:
    def __init__(self, *_: Any, **__: Any):
        raise AssertionError("the model was opened")


@pytest.fixture
def never(monkeypatch: pytest.MonkeyPatch) -> None:
    """onnxruntime that must not be reached."""
    stub = types.ModuleType("onnxruntime")
    vars(stub).update(SessionOptions=types.SimpleNamespace, InferenceSession=NeverSession)
    monkeypatch.setitem(sys.modules, "onnxruntime", stub)


@pytest.mark.usefixtures("never")
@pytest.mark.parametrize(
    "location", ["../secret", "/etc/hostname", "a/../../secret", "link", "link/secret", "\0", "*/_ORT_MEM_ADDR_/*"]
)
def test_files_outside_of_the_folder_are_refused(location: str, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (tmp_path / "secret").write_bytes(WEIGHT.tobytes())
    (folder / "link").symlink_to(tmp_path if "/" in location else tmp_path / "secret")
    with pytest.raises(RequestError, match=r"outside of its folder|not beside it"):
        OnnxModel(written(folder, model(location=location)))


@pytest.mark.usefixtures("never")
def test_a_file_that_is_not_there_and_one_that_is_too_large(tmp_path: Path) -> None:
    path = written(tmp_path, model(location="model.onnx.data"))
    with pytest.raises(RequestError, match=r"not beside it: model\.onnx\.data"):
        OnnxModel(path)
    (tmp_path / "model.onnx.data").write_bytes(bytes(10_000))
    with pytest.raises(RequestError, match="allowed"):
        OnnxModel(path, max_bytes=10_000)
    with pytest.raises(RequestError, match="allowed"):
        OnnxModel(path, max_bytes=10)


def hidden_places(inner: bytes) -> dict[str, bytes]:
    """Return models that keep a tensor in every place where ONNX allows one."""
    in_attribute, in_graph = field(5, inner), field(5, inner)
    sparse = field(1, inner)
    holders = {
        "initializer": in_graph,
        "sparse initializer": field(15, sparse),
        "sparse indices": field(15, field(2, inner)),
        "attribute": field(1, field(5, in_attribute)),
        "attribute list": field(1, field(5, field(10, inner))),
        "sparse attribute": field(1, field(5, field(22, sparse))),
        "sparse attribute list": field(1, field(5, field(23, sparse))),
        "subgraph": field(1, field(5, field(6, in_graph))),
        "subgraph list": field(1, field(5, field(11, in_graph))),
    }
    models = {name: field(1, 8) + field(7, graph) for name, graph in holders.items()}
    nodes = field(5, in_attribute)
    return models | {
        "function": field(1, 8) + field(7, b"") + field(25, field(7, nodes)),
        "function default": field(1, 8) + field(7, b"") + field(25, field(11, in_attribute)),
        "training": field(1, 8) + field(7, b"") + field(20, field(1, in_graph)),
        "training step": field(1, 8) + field(7, b"") + field(20, field(2, in_graph)),
        "second graph": field(1, 8) + field(7, b"") + field(7, in_graph),
    }


@pytest.mark.parametrize("place", hidden_places(b""))
def test_no_place_for_a_tensor_is_overlooked(place: str) -> None:
    content = hidden_places(tensor("w", WEIGHT, "../secret"))[place]
    assert is_onnx(content)
    assert external_files(content) == {"../secret"}


def test_deep_nesting_is_no_recursion() -> None:
    graph = b""
    for _ in range(2000):
        graph = field(1, field(5, field(6, graph)))
    assert external_files(field(1, 8) + field(7, graph)) == set()


# What is no model


@pytest.mark.parametrize("content", [b"", b"\0" * 50, b"text", b"\x08\x08", model()[:-3], field(7, b""), b"\x0b\x0c"])
def test_what_is_no_model_is_refused(content: bytes, tmp_path: Path) -> None:
    assert not is_onnx(content)
    with pytest.raises(RequestError, match="no ONNX model"):
        OnnxModel(written(tmp_path, content))


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="no model at"):
        OnnxModel(tmp_path / "nothing.onnx")


@pytest.mark.usefixtures("never")
def test_a_damaged_inside_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="damaged: the message is truncated"):
        OnnxModel(written(tmp_path, field(1, 8) + field(7, b"\x0a\x7f")))
    with pytest.raises(RequestError, match="damaged"):
        OnnxModel(written(tmp_path, hidden_places(field(13, field(1, "location") + field(2, b"\xff")))["initializer"]))


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(changes=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), max_size=8))
def test_no_change_crashes_the_graph_reader(changes: list[tuple[float, int]]) -> None:
    content = bytearray(model(location="x"))
    for place, value in changes:
        content[int(place * len(content))] = value
    if is_onnx(bytes(content)):
        try:
            external_files(bytes(content))
        except ValueError as error:
            assert str(error)
