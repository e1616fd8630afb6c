"""Reading checkpoints that someone handed you. A file is hostile until proven otherwise: nothing in it is ever run."""

from gifthorse.checkpoints.limits import Limits
from gifthorse.checkpoints.matching import (
    classes_of,
    compare,
    load_delivered,
    load_into,
    start_weights,
    strip_prefix,
)
from gifthorse.checkpoints.onnx_model import OnnxModel
from gifthorse.checkpoints.reading import MAX_BYTES, read_state_dict

__all__ = [
    "MAX_BYTES",
    "Limits",
    "OnnxModel",
    "classes_of",
    "compare",
    "load_delivered",
    "load_into",
    "read_state_dict",
    "start_weights",
    "strip_prefix",
]
