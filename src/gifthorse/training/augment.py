"""Batched augmentation: one gather for a whole batch, a fresh draw for every image."""

import torch
from torch import Tensor
from torch.nn.functional import pad


def crop_each(pixels: Tensor, top: Tensor, left: Tensor, height: int, width: int, flip: Tensor | None = None) -> Tensor:
    """Cut a window of ``height × width`` out of every image, at its own place, mirrored where ``flip`` says so.

    ``pixels`` is ``(N, C, H, W)`` of any dtype; ``top``, ``left`` and ``flip`` are ``(N,)``. Returns channels-last.
    """
    count, channels, source_height, source_width = pixels.shape
    steps = torch.arange(max(height, width), device=pixels.device)
    rows, columns = top.unsqueeze(1) + steps[:height], left.unsqueeze(1) + steps[:width]
    if flip is not None:
        columns = torch.where(flip.unsqueeze(1), columns.flip(1), columns)
    images = torch.arange(count, device=pixels.device).view(-1, 1, 1)
    index = (images * source_height + rows.unsqueeze(2)) * source_width + columns.unsqueeze(1)
    flat = pixels.permute(0, 2, 3, 1).reshape(-1, channels)
    return flat.index_select(0, index.flatten()).view(count, height, width, channels).permute(0, 3, 1, 2)


def shift_and_flip(pixels: Tensor, shift: int, flip: bool, *generators: torch.Generator) -> Tensor:
    """Pad with black by ``shift`` pixels and crop back at a random place per image; mirror half of the images.

    Of several generators, each draws for an equal part of the batch, in order.
    """
    if not (shift or flip):
        return pixels
    height, width = pixels.shape[2:]
    count, device = len(pixels) // len(generators), pixels.device
    top, left = torch.cat(
        [torch.randint(0, 2 * shift + 1, (2, count), generator=random, device=device) for random in generators], 1
    )
    mirrored = None
    if flip:
        mirrored = torch.cat([torch.rand(count, generator=random, device=device) for random in generators]) < 0.5
    return crop_each(pad(pixels, [shift] * 4), top, left, height, width, mirrored)
