"""Just enough of ONNX's protobuf to know a model when one comes along, and which other files it wants to read."""

from collections.abc import Iterator
from itertools import islice
from mmap import mmap

# The message types that can hold tensors: {type: {field number: type of the field}}, from the onnx.proto of ONNX 1.18.
_HOLDERS = {
    "Model": {7: "Graph", 20: "Training", 25: "Function"},
    "Training": {1: "Graph", 2: "Graph"},
    "Function": {7: "Node", 11: "Attribute"},
    "Graph": {1: "Node", 5: "Tensor", 15: "Sparse"},
    "Node": {5: "Attribute"},
    "Attribute": {5: "Tensor", 6: "Graph", 10: "Tensor", 11: "Graph", 22: "Sparse", 23: "Sparse"},
    "Sparse": {1: "Tensor", 2: "Tensor"},
    "Tensor": {13: "Entry"},
}
_IR_VERSION, _GRAPH = 1, 7
_KEY, _VALUE = 1, 2
_MOST_FIELDS = 2_000_000  # no model has so many, beside its numbers


def is_onnx(content: bytes | mmap) -> bool:
    """Tell whether bytes are a protobuf with a version number and a graph where ONNX has them."""
    try:
        fields = islice(_fields(memoryview(content)), _MOST_FIELDS)
        found = {(number, isinstance(value, int)) for number, value in fields}
    except ValueError:
        return False
    return {(_IR_VERSION, True), (_GRAPH, False)} <= found


def external_files(content: bytes) -> set[str]:
    """Return the paths, as written, of all files in which the model keeps tensors.

    Raises ``ValueError`` where ``content`` is no ONNX model, or one in more than two million pieces.
    """
    paths = set()
    left = _MOST_FIELDS
    waiting = [("Model", memoryview(content))]
    while waiting:
        kind, message = waiting.pop()
        if kind == "Entry":
            entry = {number: bytes(value) for number, value in _fields(message) if not isinstance(value, int)}
            if entry.get(_KEY) == b"location":
                paths.add(entry.get(_VALUE, b"").decode())
            continue
        holders = _HOLDERS[kind]
        for number, value in _fields(message):
            left -= 1
            if left < 0:
                raise ValueError(f"it has more than {_MOST_FIELDS} fields")
            if number in holders and not isinstance(value, int):
                waiting.append((holders[number], value))
    return paths


def _fields(message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Yield the fields of a protobuf message: a number, and an integer or bytes (fixed-width numbers too)."""
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        number, wire = tag >> 3, tag & 7
        if number == 0:
            raise ValueError("no field has the number 0")
        if wire == 0:
            value, at = _varint(message, at)
            yield number, value
            continue
        if wire == 2:
            length, at = _varint(message, at)
        elif wire in (1, 5):
            length = 8 if wire == 1 else 4
        else:
            raise ValueError(f"no field of ONNX has the wire type {wire}")
        if at + length > len(message):
            raise ValueError("the message is truncated")
        yield number, message[at : at + length]
        at += length


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    """Return the integer that begins at a place, and the place behind it."""
    value = 0
    for place in range(at, min(at + 10, len(message))):
        value |= (message[place] & 0x7F) << 7 * (place - at)
        if message[place] < 0x80:
            return value, place + 1
    raise ValueError("the message is truncated")
