"""Fits the tensors of a checkpoint to a model, and says everything that does not fit at once."""

import logging
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from gifthorse.checkpoints.listing import listing, shown
from gifthorse.core.errors import RequestError

log = logging.getLogger("gifthorse")

_PARALLEL = "module."

State = Mapping[str, Tensor]


def load_into(model: nn.Module, state: State) -> None:
    """Give a model the tensors of a checkpoint, converted to the model's precision.

    Half and bfloat16 weights are welcome. Where every name begins with ``module.`` and the model's do not, it is taken
    off: ``DataParallel`` puts it there. Raises :class:`RequestError` with everything that :func:`compare` finds, and
    then leaves the model as it was.
    """
    given = _aligned(model, state)
    problems = _problems(model, given)
    if problems:
        raise RequestError("the checkpoint does not fit the model:\n" + "\n".join(f"- {line}" for line in problems))
    # Extra state is no tensor, and a checkpoint of tensors cannot have it; the model keeps its own.
    model.load_state_dict({**model.state_dict(), **given})


def compare(model: nn.Module, state: State) -> list[str]:
    """Return one line for each kind of problem between a model and a checkpoint; none means that it fits.

    Looked for are missing and unexpected names, other shapes, types that the model cannot take or would round, and
    values that are not finite. Each line names the first ten tensors and counts the rest.
    """
    return _problems(model, _aligned(model, state))


def strip_prefix(state: State, prefix: str) -> dict[str, Tensor]:
    """Return the tensors under names without a prefix, which all of them must have, or :class:`RequestError`."""
    others = [name for name in state if not name.startswith(prefix)]
    if others:
        raise RequestError(f"not every name begins with {prefix!r}: {listing(others)}")
    return {name.removeprefix(prefix): tensor for name, tensor in state.items()}


def _problems(model: nn.Module, given: State) -> list[str]:
    wanted = {name: tensor for name, tensor in model.state_dict().items() if isinstance(tensor, Tensor)}
    common = [(name, wanted[name], given[name]) for name in wanted if name in given]
    found = {
        "missing": [name for name in wanted if name not in given],
        "unexpected": [name for name in given if name not in wanted],
        "of another shape": [
            f"{name} is {tuple(new.shape)}, should be {tuple(old.shape)}"
            for name, old, new in common
            if old.shape != new.shape
        ],
        "of another type": [
            f"{name} is {_type(new)}, should be {_type(old)}" for name, old, new in common if not _same_kind(old, new)
        ],
        "not exact in the model's type": [
            f"{name} from {_type(new)} to {_type(old)}"
            for name, old, new in common
            if _same_kind(old, new) and not _survives(new, old.dtype)
        ],
        "not finite": [f"{name} has {bad} of {new.numel()}" for name, _, new in common if (bad := _not_finite(new))],
    }
    lines = [f"{kind} ({len(names)}): {listing(names)}" for kind, names in found.items() if names]
    return lines + _prefix_hint(wanted, given)


def _aligned(model: nn.Module, state: State) -> State:
    parallel = bool(state) and all(name.startswith(_PARALLEL) for name in state)
    if parallel and not all(name.startswith(_PARALLEL) for name in model.state_dict()):
        log.info("every tensor of the checkpoint is named %s..., as DataParallel does; that is taken off", _PARALLEL)
        return strip_prefix(state, _PARALLEL)
    return state


def _same_kind(old: Tensor, new: Tensor) -> bool:
    def kind(tensor: Tensor) -> tuple[bool, bool, bool]:
        return tensor.is_floating_point(), tensor.is_complex(), tensor.dtype == torch.bool

    return kind(old) == kind(new)


def _survives(tensor: Tensor, dtype: torch.dtype) -> bool:
    """Tell whether every value is the same after a conversion and back; NaN counts as itself."""
    if torch.promote_types(tensor.dtype, dtype) == dtype:
        return True
    return torch.equal(tensor.nan_to_num(), tensor.to(dtype).to(tensor.dtype).nan_to_num())


def _not_finite(tensor: Tensor) -> int:
    return int((~torch.isfinite(tensor)).sum())


def _type(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _prefix_hint(wanted: State, given: State) -> list[str]:
    """Say which prefix would make names match; it is for the caller to decide."""
    prefixes = {name.partition(".")[0] + "." for name in given}
    if len(prefixes) != 1:
        return []
    (prefix,) = prefixes
    matching = sum(name.removeprefix(prefix) in wanted for name in given)
    if not matching or matching <= sum(name in wanted for name in given):
        return []
    return [f"without the prefix '{shown(prefix)}' {matching} of {len(given)} names would match (strip_prefix)"]
