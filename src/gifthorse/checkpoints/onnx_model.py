"""An ONNX model as a black box: pixels in, logits out, through onnxruntime; no weights and no gradients.

Only for methods that need neither. onnxruntime is an optional dependency (``gifthorse[onnx]``). Libraries of custom
operators, which are native code, are never loaded, and a model may keep tensors in files of its own folder only.
"""

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn

from gifthorse.checkpoints.listing import listing, shown
from gifthorse.checkpoints.onnx_graph import external_files, is_onnx
from gifthorse.checkpoints.reading import MAX_BYTES
from gifthorse.core.classifier import Normalise
from gifthorse.core.errors import RequestError


class OnnxModel(nn.Module):
    """A classifier that can only be asked: no parameters, no features, no gradients.

    ``mean`` and ``std`` (one number per channel) are for a model that expects normalised pixels; without them it gets
    pixels in [0,1]. ``shape`` (channels, height, width) is for a model that leaves its image size open. Raises
    :class:`RequestError` where onnxruntime is missing, the file is no sound ONNX model of one image input and one
    ``(N, K)`` output, its files are larger than ``max_bytes``, or it reaches for files outside of its folder.
    """

    shape: tuple[int, int, int]
    """Channels, height and width of an image."""
    classes: int
    """Number of classes."""

    def __init__(
        self,
        path: Path,
        *,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        shape: tuple[int, int, int] | None = None,
        max_bytes: int = MAX_BYTES,
    ):
        super().__init__()
        self.path = path
        _check_files(path, max_bytes)
        self._session = _session(path)
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        if len(inputs) != 1 or len(outputs) != 1 or inputs[0].type != "tensor(float)" or len(inputs[0].shape) != 4:
            raise RequestError(
                f"{path} has the inputs {_signature(inputs)} and the outputs {_signature(outputs)}; "
                "it should have one tensor(float) of images (N, C, H, W) and one of logits (N, K)"
            )
        self._input: str = inputs[0].name
        batch, *declared = inputs[0].shape
        # An exporter fixes the batch size unless told otherwise; then images go in so many at a time.
        self._batch = batch if isinstance(batch, int) and batch > 0 else None
        self.shape = _image_shape(path, declared, shape)
        self.normalise = Normalise(mean or [0.0] * self.shape[0], std or [1.0] * self.shape[0])
        self.classes = self(torch.zeros(1, *self.shape)).shape[1]

    def forward(self, pixels: Tensor) -> Tensor:
        """Return logits ``float32 (N, K)``, detached, for float pixels ``(N, C, H, W)`` in [0,1].

        Raises :class:`RequestError` where a gradient with respect to the pixels is asked for.
        """
        if torch.is_grad_enabled() and pixels.requires_grad:
            raise RequestError(f"{self.path} is an ONNX black box and gives no gradients, which this method needs")
        images = self.normalise(pixels.detach().to("cpu", torch.float32)).contiguous().numpy()
        size = self._batch or max(len(images), 1)
        parts = [self._run(images[start : start + size]) for start in range(0, len(images), size)]
        logits = np.concatenate(parts) if parts else np.empty((0, self.classes), np.float32)
        return torch.from_numpy(logits).to(pixels.device)

    def _run(self, images: np.ndarray) -> np.ndarray:
        count = len(images)
        if self._batch and count < self._batch:
            images = np.concatenate([images, np.repeat(images[-1:], self._batch - count, axis=0)])
        try:
            (logits,) = self._session.run(None, {self._input: images})
        except Exception as error:  # onnxruntime's errors share no class of their own
            raise RequestError(f"{self.path} failed on images {images.shape}: {_reason(error)}") from error
        if logits.ndim != 2 or len(logits) != len(images):
            raise RequestError(f"{self.path} gave {logits.shape} for images {images.shape}; logits are (N, K)")
        return np.asarray(logits[:count], np.float32)

    @property
    def device(self) -> torch.device:
        """Where the model runs: the CPU."""
        return self.normalise.mean.device

    def clone(self) -> Self:
        """Return the model itself: it has nothing that a method could change."""
        return self

    def __deepcopy__(self, _: dict[int, Any]) -> Self:
        return self


def _check_files(path: Path, max_bytes: int) -> None:
    """Refuse what is no ONNX model, is too large, or reaches for files outside of its folder."""
    if not path.is_file():
        raise RequestError(f"there is no model at {path}")
    size = path.stat().st_size
    if size > max_bytes:
        raise RequestError(f"{path} has {size} bytes, more than the {max_bytes} that are allowed")
    content = path.read_bytes()
    if not is_onnx(content):
        raise RequestError(f"{path} is no ONNX model")
    try:
        locations = external_files(content)
    except ValueError as error:
        raise RequestError(f"{path} is damaged: {shown(str(error))}") from error
    folder = path.resolve().parent
    files = {location: (folder / location).resolve() for location in locations if "\0" not in location}
    outside = sorted(name for name in locations if name not in files or not files[name].is_relative_to(folder))
    if outside:
        raise RequestError(f"{path} is refused: it reaches for files outside of its folder: {listing(outside)}")
    absent = sorted(name for name, file in files.items() if not file.is_file())
    if absent:
        raise RequestError(f"{path} keeps its tensors in files that are not beside it: {listing(absent)}")
    size += sum(file.stat().st_size for file in set(files.values()))
    if size > max_bytes:
        raise RequestError(f"{path} and its tensors have {size} bytes, more than the {max_bytes} that are allowed")


def _session(path: Path) -> Any:
    try:
        runtime = importlib.import_module("onnxruntime")
    except ImportError as error:
        raise RequestError("an ONNX model needs onnxruntime: pip install 'gifthorse[onnx]'") from error
    options = runtime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 4  # what goes wrong is raised
    try:
        return runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's errors share no class of their own
        raise RequestError(
            f"onnxruntime cannot open {path} (libraries of custom operators are never loaded): {_reason(error)}"
        ) from error


def _image_shape(path: Path, declared: list[Any], said: tuple[int, int, int] | None) -> tuple[int, int, int]:
    known = [size if isinstance(size, int) and size > 0 else None for size in declared]
    if said is None and None in known:
        raise RequestError(f"{path} leaves its image size open, (C, H, W) = {tuple(known)}: say it with shape")
    if said is not None and any(size not in (None, given) for size, given in zip(known, said, strict=True)):
        raise RequestError(f"{path} is for images (C, H, W) = {tuple(known)}, not {said}")
    channels, height, width = said if said is not None else [size or 0 for size in known]
    return channels, height, width


def _signature(arguments: Sequence[Any]) -> str:
    return listing(f"{argument.type} {argument.shape}" for argument in arguments) or "none"


def _reason(error: Exception) -> str:
    return shown((str(error).splitlines() or [type(error).__name__])[0])
