"""A trigger's pattern from a picture file."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from gifthorse.core.errors import RequestError


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
