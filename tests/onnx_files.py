"""ONNX models written by hand in protobuf, so that neither onnx nor an exporter is needed."""

import numpy as np


def varint(value: int) -> bytes:
    content = b""
    while value > 0x7F:
        content += bytes([value & 0x7F | 0x80])
        value >>= 7
    return content + bytes([value])


def field(number: int, value: int | bytes | str) -> bytes:
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    content = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(content)) + content


def tensor(name: str, values: np.ndarray, location: str | None = None) -> bytes:
    kind = {"f": 1, "i": 7}[values.dtype.kind]
    about = b"".join(field(1, size) for size in values.shape) + field(2, kind) + field(8, name)
    if location is None:
        return about + field(9, values.tobytes())
    entries = {"location": location, "offset": "0", "length": str(values.nbytes)}
    return about + b"".join(field(13, field(1, k) + field(2, v)) for k, v in entries.items()) + field(14, 1)


def value_info(name: str, *sizes: int | str) -> bytes:
    dimensions = b"".join(field(1, field(1, size) if isinstance(size, int) else field(2, size)) for size in sizes)
    return field(1, name) + field(2, field(1, field(1, 1) + field(2, dimensions)))


def node(operator: str, inputs: list[str], output: str, domain: str = "") -> bytes:
    named = b"".join(field(1, name) for name in inputs) + field(2, output) + field(4, operator)
    return named + (field(7, domain) if domain else b"")


def linear_model(weight: np.ndarray, shape: tuple[int, int, int]) -> bytes:
    """Return the model that flattens ``(N, *shape)`` and multiplies with ``weight (D, K)``."""
    graph = [
        field(1, node("Reshape", ["x", "shape"], "flat")),
        field(1, node("MatMul", ["flat", "w"], "y")),
        field(2, "graph"),
        field(5, tensor("w", weight.astype(np.float32))),
        field(5, tensor("shape", np.array([-1, len(weight)]))),
        field(11, value_info("x", "n", *shape)),
        field(12, value_info("y", "n", weight.shape[1])),
    ]
    return field(1, 8) + field(2, "pytorch") + field(7, b"".join(graph)) + field(8, field(1, "") + field(2, 13))
