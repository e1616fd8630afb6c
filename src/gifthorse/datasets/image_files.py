"""Image files that need not fit in memory: decoded once, kept as 8-bit pixels in a file that is mapped, not read."""

import logging
import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from math import ceil
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor

from gifthorse.core.configuration import fingerprint
from gifthorse.core.errors import RequestError
from gifthorse.core.images import Images
from gifthorse.core.progress import track
from gifthorse.core.task import Splits

log = logging.getLogger("gifthorse")

CACHE = ".gifthorse-cache"
# Pillow goes by a file's content, whatever it is called, and hands PostScript to an interpreter: not from here.
FORMATS = ("JPEG", "PNG", "PPM", "BMP", "TIFF", "WEBP")
BLOCK = 256
MAX_PIXELS = 50_000_000
"""The most pixels that are decoded of an image unless the caller says otherwise: 200 MB of memory."""

Pixels = NDArray[np.uint8]
Size = int | tuple[int, int]
"""The side of a square, or height and width, in pixels."""


@dataclass(frozen=True, eq=False)
class ImageFiles:
    """What :class:`Images` is before decoding: ``paths`` of N files and their ``labels``, ``int64 (N,)``.

    Choosing comes before reading: a data set is cut while it is a list of files, and only what was chosen is decoded.
    """

    paths: tuple[Path, ...]
    labels: Tensor
    classes: int

    def __len__(self) -> int:
        return len(self.paths)

    @classmethod
    def joined(cls, parts: Sequence["ImageFiles"]) -> "ImageFiles":
        """Return the files of one or more lists, one list after the other."""
        paths = tuple(path for part in parts for path in part.paths)
        return cls(paths, torch.cat([part.labels for part in parts]), parts[0].classes)

    def take(self, index: Tensor) -> "ImageFiles":
        """Return the files of an index, in that order."""
        return ImageFiles(tuple(self.paths[i] for i in index.tolist()), self.labels[index], self.classes)

    def read(
        self,
        size: Size,
        root: Path,
        name: str,
        keep: float | None = 1.0,
        channels: int = 3,
        max_pixels: int = MAX_PIXELS,
    ) -> Images:
        """Return the images, ``uint8 (N, channels, H, W)``, mapped from the cache in the data folder ``root``.

        The first time, ``torch.get_num_threads()`` threads decode and resize every file (see :func:`read_image`)
        and the pixels are written to ``root/.gifthorse-cache/``, under the hash of the files' names, sizes and times of
        change; it may be deleted at any time. Later only the pages that are touched are read. Where the data folder
        cannot be written, the images stay in memory. :class:`RequestError` names a file that is no image, or one of
        more than ``max_pixels``.
        """
        cache = root / CACHE / f"{self._key(size, root.resolve(), keep, channels, max_pixels)}.npy"
        shape = (len(self), *_sides(size), channels)
        pixels = _mapped(cache, shape)
        if pixels is None:
            decoded = partial(
                self._decode, name, partial(read_image, size=size, keep=keep, channels=channels, max_pixels=max_pixels)
            )
            # The limit is ours.
            with warnings.catch_warnings(action="ignore", category=Image.DecompressionBombWarning):
                try:
                    _write(cache, shape, decoded())
                    pixels = _mapped(cache, shape)
                except OSError as error:
                    log.warning("%s keeps its images in memory: %s cannot be written (%s)", name, cache.parent, error)
                if pixels is None:
                    pixels = np.stack(list(decoded()))
        return Images(torch.from_numpy(pixels).permute(0, 3, 1, 2), self.labels, self.classes)

    def _key(self, size: Size, root: Path, keep: float | None, channels: int, max_pixels: int) -> str:
        files = []
        for path in self.paths:
            try:
                about = path.stat()
            except OSError as error:
                raise RequestError(f"cannot read the image {path} ({error.strerror})") from None
            stamp = about.st_size, about.st_mtime_ns, about.st_ctime_ns
            files.append([os.path.relpath(path, root), *stamp])
        # What is above the limit is decoded otherwise.
        limit = {} if max_pixels == MAX_PIXELS else {"max_pixels": max_pixels}
        return fingerprint(
            {"format": 3, **limit, "size": _sides(size), "keep": keep, "channels": channels, "files": files}
        )

    def _decode(self, name: str, read: Callable[[Path], Pixels]) -> Iterator[Pixels]:
        blocks = [self.paths[start : start + BLOCK] for start in range(0, len(self), BLOCK)]
        # Threads, not processes: Pillow decodes and resizes without holding the interpreter lock.
        with ThreadPoolExecutor(torch.get_num_threads()) as workers:
            for block in track(blocks, f"reading {name}", len(blocks)):
                yield from workers.map(read, block)


def read_splits(
    parts: Mapping[str, ImageFiles],
    class_names: Sequence[str],
    size: Size,
    root: Path,
    name: str,
    keep: float | None = 1.0,
    channels: int = 3,
    max_pixels: int = MAX_PIXELS,
) -> Splits:
    """Read the files of ``train``, ``holdout`` and ``test``; see :meth:`ImageFiles.read`."""
    images = {
        part: files.read(size, root, f"{name} ({part})", keep, channels, max_pixels) for part, files in parts.items()
    }
    return Splits(**images, class_names=tuple(class_names))


def read_image(
    path: Path, size: Size, keep: float | None = 1.0, channels: int = 3, max_pixels: int = MAX_PIXELS
) -> Pixels:
    """Return an image file as ``uint8 (H, W, channels)``, resized bilinearly with antialiasing.

    Three channels are red, green and blue, one is their grey (ITU-R BT.601). ``keep`` is the side of the centred
    square, or rectangle of the shape asked for, that is kept, as a share of the largest in the image; ``None``
    stretches the whole image. Grey and palette images become coloured, transparency is dropped, 16 bits become 8, and
    of several frames the first is taken, all as torchvision does it. A JPEG of more than ``max_pixels`` is decoded at a
    half, a quarter or an eighth of its size. :class:`RequestError` names a file that cannot be read, or is larger.
    """
    height, width = _sides(size)
    try:
        with Image.open(path, formats=FORMATS) as image:
            bound_pixels(image, (2 * width / (keep or 1), 2 * height / (keep or 1)), max_pixels)
            colour = _to_rgb(image)
        shown = colour if channels == 3 else colour.convert("L")
        if keep is None:
            resized = shown.resize((width, height), Image.Resampling.BILINEAR)
        else:
            resized = ImageOps.fit(shown, (width, height), Image.Resampling.BILINEAR, bleed=(1 - keep) / 2)
        return np.asarray(resized).reshape(height, width, channels)
    except Exception as error:  # Pillow's decoders raise whatever a broken file makes them trip over
        raise RequestError(f"cannot read the image {path} ({str(error) or type(error).__name__})") from error


def bound_pixels(image: Image.Image, enough: tuple[float, float], max_pixels: int = MAX_PIXELS) -> None:
    """Have a large JPEG decoded small, but no smaller than the width and height that are ``enough``.

    Raises ``ValueError`` for other large images.
    """
    if image.width * image.height > max_pixels:
        image.draft(None, (ceil(enough[0]), ceil(enough[1])))
    if image.width * image.height > max_pixels:
        raise ValueError(
            f"it has {image.width} × {image.height} pixels, more than the {max_pixels} that are decoded: "
            "make it smaller, or set max_pixels of the data set where it has that field"
        )


def _sides(size: Size) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else size


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):
        # Pillow's own conversion clips at 255 and turns nearly everything white.
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
    if image.mode in ("I", "F"):
        raise ValueError(f"pixels of type {image.mode} have no known range")
    # Through RGBA: from a palette with transparency straight to RGB, Pillow warns.
    return (image.convert("RGBA") if "transparency" in image.info else image).convert("RGB")


def _mapped(cache: Path, shape: tuple[int, ...]) -> NDArray[Any] | None:
    """Return the cached pixels, or ``None`` where there are none or they are damaged."""
    if not cache.exists():
        return None
    try:
        # Copy on write: whoever changes the pixels changes them in memory, never in the file.
        pixels = np.lib.format.open_memmap(cache, mode="c")
        whole = pixels.offset + pixels.nbytes == cache.stat().st_size and pixels.flags.c_contiguous
        if pixels.shape == shape and pixels.dtype == np.uint8 and whole:
            return pixels
    except (OSError, ValueError, EOFError, OverflowError):
        pass
    log.warning("%s is damaged; the images are read anew", cache)
    return None


def _write(cache: Path, shape: tuple[int, ...], images: Iterator[Pixels]) -> None:
    """Write the pixels as an ``.npy`` file that is either there and whole or not there."""
    cache.parent.mkdir(parents=True, exist_ok=True)
    unfinished = cache.with_name(f"{cache.stem}.{uuid4().hex}.part")
    try:
        with unfinished.open("xb") as file:
            header = {"descr": "|u1", "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(file, header)
            for image in images:
                file.write(image.tobytes())
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(cache)
    finally:
        unfinished.unlink(missing_ok=True)
