"""Pictures from files, for triggers to show."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from gifthorse.core.errors import RequestError
from gifthorse.datasets.image_files import bound_pixels, read_image
from gifthorse.datasets.tree import image_paths

GREY = (0.299, 0.587, 0.114)
"""What red, green and blue weigh in a grey picture (ITU-R BT.601, as Pillow has it)."""


def read_picture(path: Path, channels: int, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Return a picture as a pattern ``(C, height, width)`` on the 8-bit grid, and a mask of its opaque pixels.

    The file may be anything Pillow reads; it is resized, and turned grey where ``channels`` is 1. A pixel less than
    half opaque is left out. :class:`RequestError` where the file cannot be read or shows nothing.
    """
    from PIL import Image

    if channels not in (1, 3):
        raise RequestError(f"a picture has 1 or 3 channels, the images have {channels}")
    try:
        with Image.open(path) as opened:
            bound_pixels(opened, (2 * width, 2 * height))
            opened.load()
            picture = opened.convert("RGBA").resize((width, height), Image.Resampling.BILINEAR)
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise RequestError(f"cannot read the trigger's picture {path}: {error}") from None
    colours = np.asarray(picture.convert("RGB" if channels == 3 else "L"))
    opaque = np.asarray(picture.getchannel("A")) >= 128
    if not opaque.any():
        raise RequestError(f"the trigger's picture {path} is transparent everywhere at {height}×{width} pixels")
    pattern = torch.from_numpy(colours.copy()).view(height, width, channels).permute(2, 0, 1).float() / 255
    return pattern.contiguous(), torch.from_numpy(opaque).unsqueeze(0).float()


def find_pictures(folder: str) -> list[Path]:
    """Return the image files in a folder and its subfolders, in order; :class:`RequestError` where it is none."""
    try:
        where = Path(folder).expanduser().resolve()
        return list(image_paths(where, (where,)))
    except OSError as error:
        raise RequestError(f"cannot read the pictures in {folder} ({error.strerror})") from None
    except RuntimeError:  # until Python 3.13
        raise RequestError(f"cannot read the pictures in {folder}: it is a link that leads in a circle") from None


def read_pictures(paths: Sequence[Path], channels: int, size: int) -> Tensor:
    """Return the middle squares of some image files as ``float32 (N, C, size, size)`` in [0,1].

    They are turned grey where ``channels`` is 1. :class:`RequestError` names a file that cannot be read.
    """
    colours = torch.from_numpy(np.stack([read_image(path, size) for path in paths])).permute(0, 3, 1, 2).float() / 255
    if channels == 3:
        return colours
    return (colours * torch.tensor(GREY).view(3, 1, 1)).sum(1, keepdim=True).clamp(0, 1)
