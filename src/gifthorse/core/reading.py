"""How logits ``(N, K)`` are read from whatever a network gives: a tensor, a tuple, a dictionary, a record."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, is_dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor

from gifthorse.core.errors import RequestError
from gifthorse.core.seeds import generator

Ending = Literal["softmax", "log_softmax", "sigmoid"]
_TINY = torch.finfo(torch.float32).tiny
_EPSILON = torch.finfo(torch.float32).eps


@dataclass(frozen=True)
class Reading:
    """Which entry of a network's output the logits are, and what is undone to have them.

    ``entry`` is the key of a dictionary, the place in a tuple or the name of an ``attribute``; ``None`` where the
    output is one tensor. A ``softmax`` is undone but for a constant per image, which no softmax of logits knows.
    """

    entry: str | int | None = None
    attribute: bool = False
    undo: Ending | None = None

    def __call__(self, given: Any) -> Tensor:
        """Return float32 logits ``(N, K)``; they may come as ``(N, K, 1, 1)``."""
        if self.entry is not None:
            given = getattr(given, str(self.entry)) if self.attribute else given[self.entry]
        logits: Tensor = given.flatten(1).float()
        if self.undo == "softmax":
            return logits.clamp_min(_TINY).log()
        return logits.logit(_EPSILON) if self.undo == "sigmoid" else logits


PLAIN = Reading()


def reading_of(given: object, output: str | int | None) -> Reading:
    """Return how the logits of two images are read from what a network gave; ``output`` names the entry.

    Without it one called "logits" is taken, or the only one that looks like logits. :class:`RequestError` where it
    cannot be told which, with all that there is.
    """
    if isinstance(given, Tensor):
        if output is not None:
            raise RequestError(f"output={output!r} names nothing: the model gives one tensor")
        if not _like_logits(given):
            raise RequestError(f"the model does not give logits (N, K): it gives {_shown(given)}")
        return PLAIN
    entries, attribute = _entries(given, by_place=isinstance(output, int))
    if not entries:
        raise RequestError(f"the model does not give logits (N, K): it gives {_shown(given)}")
    listed = ", ".join(f"{name!r}: {_shown(each)}" for name, each in entries.items())
    if output is None:
        likely = [name for name, each in entries.items() if _like_logits(each)]
        if "logits" in likely:
            output = "logits"
        elif len(likely) == 1:
            output = likely[0]
        else:
            told = "say with output= which are the logits" if likely else "none of them is a batch of logits (N, K)"
            raise RequestError(f"the model gives several things, {listed}: {told}")
    elif output not in entries:
        raise RequestError(f"output={output!r} is not among what the model gives: {listed}")
    elif not _like_logits(entries[output]):
        raise RequestError(f"output={output!r} is no batch of logits (N, K); the model gives {listed}")
    return Reading(output, attribute)


def ending_of(led: Callable[[Callable[[Tensor], Tensor]], Tensor]) -> Ending | None:
    """Return what turns a network's logits into its outputs ``(N, K)``; ``None`` where they are logits.

    ``led`` returns the outputs where what the head gives is changed.
    """
    outputs = led(lambda given: torch.randn(given.shape, generator=generator(0, "ending")).to(given))
    if outputs.is_meta:
        return None
    if (ending := distribution_in(outputs)) is not None:
        return ending
    high, low = (led(partial(torch.full_like, fill_value=most)) for most in (50.0, -50.0))
    return "sigmoid" if bool((high > 1 - 1e-3).all() and (high <= 1).all() and (low.abs() < 1e-3).all()) else None


def distribution_in(outputs: Tensor) -> Ending | None:
    """Return whether outputs ``(N, K)`` are probabilities of classes that sum to 1, or the logarithms of such."""
    if outputs.shape[1] < 2:
        return None
    ones = torch.ones_like(outputs[:, 0])
    if bool((outputs >= 0).all()) and torch.allclose(outputs.sum(1), ones, atol=1e-3):
        return "softmax"
    return "log_softmax" if torch.allclose(outputs.exp().sum(1), ones, atol=1e-3) else None


def _entries(given: object, *, by_place: bool) -> tuple[dict[str | int, object], bool]:
    """Return the entries of an output by their names or places, and whether they are attributes."""
    if isinstance(given, Mapping):
        return dict(given), False
    if isinstance(given, tuple | list):
        names = () if by_place else getattr(given, "_fields", ())
        return ({name: getattr(given, name) for name in names}, True) if names else (dict(enumerate(given)), False)
    if is_dataclass(given):
        return {each.name: getattr(given, each.name) for each in fields(given)}, True
    return dict(getattr(given, "__dict__", {})), True


def _like_logits(given: object) -> bool:
    if not isinstance(given, Tensor) or not given.is_floating_point() or given.dim() < 2 or len(given) != 2:
        return False
    return sum(size != 1 for size in given.shape[1:]) <= 1


def _shown(given: object) -> str:
    if not isinstance(given, Tensor):
        return type(given).__name__
    kind = "" if given.is_floating_point() else f" of {str(given.dtype).removeprefix('torch.')}"
    return f"a tensor {tuple(given.shape)}{kind}"
