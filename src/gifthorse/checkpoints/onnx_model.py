"""An ONNX model as a black box: pixels in, logits out, through onnxruntime; no weights and no gradients.

Only for methods that need neither. onnxruntime is an optional dependency (``gifthorse[onnx]``). Libraries of custom
operators, which are native code, are never loaded, and a model may keep tensors in files of its own folder only.
"""

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gifthorse.checkpoints.listing import listing, shown
from gifthorse.checkpoints.onnx_graph import external_files, is_onnx
from gifthorse.checkpoints.reading import MAX_BYTES
from gifthorse.core.classifier import BlackBox, Normalise
from gifthorse.core.errors import RequestError
from gifthorse.core.reading import PLAIN, Reading, distribution_in
from gifthorse.core.seeds import generator

_TYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(double)": np.float64}
_COLOURS = (1, 3, 4)


class OnnxModel(BlackBox):
    """A classifier that can only be asked: no parameters, no features, no gradients.

    ``mean`` and ``std`` (one number per channel) are for a model that expects normalised pixels; without them it gets
    pixels in [0,1]. ``shape`` (channels, height, width) is for a model that leaves its image size open; one that has
    its channels last is shown images so. ``output`` names the logits of several outputs, where none is called "logits";
    with ``probabilities`` a softmax or sigmoid at the model's end is undone. Raises
    :class:`RequestError` where onnxruntime is missing, the file is no sound ONNX model of one image input and one
    ``(N, K)`` output, its files are larger than ``max_bytes``, or it reaches for files outside of its folder.
    """

    def __init__(
        self,
        path: Path,
        *,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        shape: tuple[int, int, int] | None = None,
        output: str | None = None,
        probabilities: bool = False,
        max_bytes: int = MAX_BYTES,
    ):
        super().__init__()
        self.path = path
        _check_files(path, max_bytes)
        self._session = _session(path)
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        self._output = _chosen([each.name for each in outputs], output)
        if len(inputs) != 1 or self._output is None or inputs[0].type not in _TYPES or len(inputs[0].shape) != 4:
            raise RequestError(
                f"{path} has the inputs {_signature(inputs)} and the outputs {_signature(outputs)}; "
                "it should have one tensor(float) of images (N, C, H, W) or (N, H, W, C), and one of logits (N, K) "
                "unless output says which"
            )
        self._input, self._type = inputs[0].name, _TYPES[inputs[0].type]
        batch, *declared = inputs[0].shape
        # An exporter fixes the batch size unless told otherwise; then images go in so many at a time.
        self._batch = batch if isinstance(batch, int) and batch > 0 else None
        self.shape, orders = _image_shape(path, declared, shape)
        if any(given is not None and len(given) != self.shape[0] for given in (mean, std)):
            raise RequestError(f"{path} takes images of {self.shape[0]} channels: mean and std have a number for each")
        self.normalise = Normalise(mean or [0.0] * self.shape[0], std or [1.0] * self.shape[0])
        self._reading = PLAIN
        outputs_of_noise = self._first_answer(orders)
        self.classes = outputs_of_noise.shape[1]
        self._reading = _reading(path, outputs_of_noise, probabilities)

    def _first_answer(self, orders: list[bool]) -> Tensor:
        """Return what it gives for two images of noise, in the first order of axes (channels last or not) it takes."""
        noise = torch.rand(2, *self.shape, generator=generator(0, "noise"))
        for self._channels_last in orders[:-1]:
            try:
                return self.answer(noise)
            except RequestError:
                continue
        self._channels_last = orders[-1]
        return self.answer(noise)

    def answer(self, pixels: Tensor) -> Tensor:
        """Return logits ``float32 (N, K)``, detached, for float pixels ``(N, C, H, W)`` in [0,1]."""
        shown = self.normalise(pixels.detach().to("cpu", torch.float32))
        shown = shown.permute(0, 2, 3, 1) if self._channels_last else shown
        images = shown.contiguous().numpy().astype(self._type)
        size = self._batch or max(len(images), 1)
        parts = [self._run(images[start : start + size]) for start in range(0, len(images), size)]
        outputs = np.concatenate(parts) if parts else np.empty((0, self.classes), np.float32)
        return self._reading(torch.from_numpy(outputs)).to(pixels.device)

    def _run(self, images: np.ndarray) -> np.ndarray:
        count = len(images)
        if self._batch and count < self._batch:
            images = np.concatenate([images, np.repeat(images[-1:], self._batch - count, axis=0)])
        try:
            (logits,) = self._session.run([self._output], {self._input: images})
        except Exception as error:  # onnxruntime's errors share no class of their own
            raise RequestError(f"{self.path} failed on images {images.shape}: {_reason(error)}") from error
        if logits.ndim < 2 or len(logits) != len(images) or sum(size != 1 for size in logits.shape[1:]) > 1:
            raise RequestError(f"{self.path} gave {logits.shape} for images {images.shape}; logits are (N, K)")
        return np.asarray(logits[:count], np.float32).reshape(count, -1)


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
    try:
        files = {location: (folder / location).resolve() for location in locations if "\0" not in location}
    except (OSError, RuntimeError) as error:  # until Python 3.13, a link to itself is a RuntimeError
        raise RequestError(f"{path} is refused: it reaches for files through links that lead nowhere") from error
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


def _image_shape(
    path: Path, declared: list[Any], said: tuple[int, int, int] | None
) -> tuple[tuple[int, int, int], list[bool]]:
    """Return the shape of an image, and whether its channels come last: both, in order, where either may be meant."""
    known = [size if isinstance(size, int) and size > 0 else None for size in declared]
    if said is not None:
        channels, height, width = said
        orders = [
            last
            for last, axes in ((False, said), (True, (height, width, channels)))
            if all(size in (None, given) for size, given in zip(known, axes, strict=True))
        ]
        if not orders:
            raise RequestError(f"{path} is for images of {tuple(known)}, not (C, H, W) = {said}")
        return said, orders
    first, second, third = known
    if first is None or second is None or third is None:
        raise RequestError(f"{path} leaves its image size open, {tuple(known)}: say it with shape=(C, H, W)")
    if third in _COLOURS and first not in _COLOURS:
        return (third, first, second), [True]
    return (first, second, third), [False]


def _chosen(names: list[str], said: str | None) -> str | None:
    """Return the output that logits are taken from, ``None`` where it cannot be told."""
    if said is not None or "logits" in names:
        wanted = said or "logits"
        return wanted if wanted in names else None
    return names[0] if len(names) == 1 else None


def _reading(path: Path, outputs: Tensor, probabilities: bool) -> Reading:
    """Return what is undone of the outputs; :class:`RequestError` where that was not asked for, or there is nothing."""
    ending = distribution_in(outputs)
    if ending == "log_softmax":
        return PLAIN
    if not probabilities:
        if ending is None:
            return PLAIN
        raise RequestError(
            f"{path} gives probabilities, as it ends in a softmax, and no logits: export it without the softmax, or "
            "say probabilities=True to have that undone"
        )
    if ending is None and not bool(((outputs >= 0) & (outputs <= 1)).all()):
        raise RequestError(f"probabilities=True: {path} gives numbers outside of [0,1], which are no probabilities")
    return Reading(undo=ending or "sigmoid")


def _signature(arguments: Sequence[Any]) -> str:
    return listing(f"{argument.type} {argument.shape}" for argument in arguments) or "none"


def _reason(error: Exception) -> str:
    return shown((str(error).splitlines() or [type(error).__name__])[0])
