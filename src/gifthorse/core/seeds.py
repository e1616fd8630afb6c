"""Seeds by purpose: adding a method or a step reshuffles nothing that was there before."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def derive(seed: int, *purpose: str | int) -> int:
    """Return a 63-bit seed that depends on ``seed`` and on the words of ``purpose`` only.

    >>> derive(0, "attack", "poison") == derive(0, "attack", "poison") != derive(0, "attack", "trigger")
    True
    """
    text = "\0".join([str(seed), *map(str, purpose)])
    return int.from_bytes(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:8], "big") >> 1


def generator(seed: int, *purpose: str | int, device: "torch.device | str" = "cpu") -> "torch.Generator":
    """Return a fresh random generator on ``device``, seeded by purpose."""
    import torch

    return torch.Generator(device).manual_seed(derive(seed, *purpose))


@contextmanager
def isolated(seed: int, *purpose: str | int) -> "Iterator[None]":
    """Seed torch's global generators by purpose inside the block and restore them after it.

    For library code that draws from the global state (weight initialisation, dropout).
    """
    import torch

    devices = [torch.cuda.current_device()] if torch.cuda.is_initialized() else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(derive(seed, *purpose))
        yield


def image_draws(pixels: "torch.Tensor", seed: int, high: int, draws: int) -> "torch.Tensor":
    """Return ``(N, draws)`` integers in ``[0, high)`` that depend on each image's own pixels and the seed.

    A random input transformation that draws this way treats an image the same alone, in a batch, and tomorrow.
    ``pixels`` is ``(N, C, H, W)`` in [0,1].
    """
    import torch

    levels = (pixels * 255).round().long().flatten(1)
    columns = []
    for draw in range(draws):
        source = generator(seed, "image draws", draw)
        weights = torch.randint(1, 2**62, (levels.shape[1],), generator=source)
        mixed = (levels * weights.to(levels.device)).sum(1)
        columns.append(((mixed >> 31) ^ mixed).remainder(high))
    return torch.stack(columns, 1)


def image_noise(pixels: "torch.Tensor", seed: int, count: int) -> "torch.Tensor":
    """Return ``(N, count)`` numbers, uniform in [0,1), that depend on each image's own pixels and the seed.

    As many as one likes cost one pass over the pixels: they count on from one draw per image (SplitMix64).
    """
    import torch

    start = image_draws(pixels, seed, 2**62, 1)
    numbers = start + torch.arange(1, count + 1, device=pixels.device) * _signed(0x9E3779B97F4A7C15)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        numbers = (numbers ^ _shifted(numbers, shift)) * _signed(factor)
    noise: torch.Tensor = _shifted(numbers ^ _shifted(numbers, 31), 40).float() / 2**24
    return noise


def _signed(bits: int) -> int:
    """Return the integer that torch's 64 signed bits hold."""
    return bits - 2**64


def _shifted(numbers: "torch.Tensor", shift: int) -> "torch.Tensor":
    """Shift 64 bits to the right, with zeros coming in: torch's own shift keeps the sign."""
    shifted: torch.Tensor = (numbers >> shift) & (2 ** (64 - shift) - 1)
    return shifted
