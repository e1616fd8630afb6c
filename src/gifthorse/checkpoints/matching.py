"""Fits the tensors of a checkpoint to a model, and says everything that does not fit at once."""

import logging
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Self

import torch
from torch import Tensor, nn

from gifthorse.checkpoints.listing import listing, shown
from gifthorse.core.classifier import Classifier
from gifthorse.core.errors import RequestError

log = logging.getLogger("gifthorse")

State = Mapping[str, Tensor]

_COUNTER = "num_batches_tracked"
_MOST_PARTS = 8
_MOST_PREFIXES = 10
# Heads that only training has (GoogLeNet, Inception), a profiler's counters, and what a layer keeps beside tensors.
_ASIDE = re.compile(r"(aux1|aux2|AuxLogits)\..+|(.+\.)?(total_ops|total_params|_extra_state)")
_REPARAMETRISED = re.compile(r"(.+\.)?(\w+_(orig|mask|g|v)|parametrizations\..+)")
_NETWORK, _NORMALISE, _TROJAN = "network.", "normalise.", "model/"
_HEADS = {"classifier", "fc", "head", "heads", "last_linear", "linear", "logits", "out", "output"}


def load_into(model: nn.Module, state: State, *, prefix: str | None = None) -> None:
    """Give a model the tensors of a checkpoint, converted to the model's precision.

    Half and bfloat16 weights are welcome. What stands before the names (``module.``, ``_orig_mod.``, ``model.``) is
    taken off where everything fits then. With a ``prefix``, only tensors that have it are taken, without it. The
    model keeps its own ``num_batches_tracked`` where the checkpoint has none. What was taken off or left out is
    logged. Raises :class:`RequestError` with everything that :func:`compare` finds, and then leaves the model as it
    was.
    """
    _load(model, _Fit.of(model, state, prefix).checked())


def compare(model: nn.Module, state: State, *, prefix: str | None = None) -> list[str]:
    """Return one line for each kind of problem between a model and a checkpoint; none means that it fits.

    Looked for are missing and unexpected names, other shapes, types that the model cannot take or would round, and
    values that are not finite. Each line names the first ten tensors and counts the rest.
    """
    return _Fit.of(model, state, prefix).problems()


def load_delivered(model: Classifier, state: State, *, prefix: str | None = None) -> None:
    """Give a classifier all weights of a model that somebody delivered, as :func:`load_into` does.

    They are those of its network, whoever wrote them, or a classifier or a trojan of the store. Raises
    :class:`RequestError` in one sentence where the checkpoint's head is for another number of classes.
    """
    module, given, head = _addressed(model, state)
    fit = _Fit.of(module, given, prefix)
    weight = fit.given.get(f"{head}.weight")
    if weight is not None and weight.ndim == 2 and len(weight) != model.classes:
        raise RequestError(
            f"the checkpoint's head knows {len(weight)} classes, and {model.classes} are needed: use images of the "
            f"{len(weight)} classes that it was trained on, or train on from it, which gives it a new head "
            "(gifthorse run --model 'torchvision[weights=FILE]')"
        )
    _load(module, fit.checked())


def start_weights(model: Classifier, state: State, *, prefix: str | None = None) -> dict[str, Tensor]:
    """Return what training starts from, by the classifier's names: the tensors that :func:`load_delivered` would load.

    Where the checkpoint's head is missing or of another shape it is left out, which is logged. No value of the
    classifier is looked at, so that it may be on the meta device.
    """
    module, given, head = _addressed(model, state)
    found = _Fit.of(module, given, prefix, new_head=head).checked()
    return found if module is model else {_NETWORK + name: tensor for name, tensor in found.items()}


def classes_of(state: State, *, head: str | None = None, prefix: str | None = None) -> int | None:
    """Return how many classes the last layer of a checkpoint's network tells apart; ``None`` where none is found.

    ``head`` is that layer's name, without what may stand before it. Otherwise it is the least nested of those that
    are commonly called a head (``fc``, ``classifier``), or the last linear layer, or 1×1 convolution, of the file.
    """
    if prefix is not None:
        state, _ = _with_prefix(state, prefix)
    layers = {
        name.rpartition(".")[0]: weight
        for name, weight in state.items()
        if name.rpartition(".")[2] == "weight" and weight.shape[2:] in ((), (1, 1)) and not _is_aside(name, weight)
    }
    layers = {name: weight for name, weight in layers.items() if weight.ndim in (2, 4)}
    if head is not None:
        named = [name for name in layers if f".{name}".endswith(f".{head}")]
        return len(layers[named[-1]]) if named else None
    heads = [name for name in layers if not _HEADS.isdisjoint(name.split("."))]
    if heads:
        least = min(name.count(".") for name in heads)
        last = max((name for name in heads if name.count(".") == least), key=_natural)
        return len(layers[last])
    last_of = {weight.ndim: len(weight) for weight in layers.values()}
    return last_of.get(2, last_of.get(4))


def strip_prefix(state: State, prefix: str) -> dict[str, Tensor]:
    """Return the tensors under names without a prefix, which all of them must have, or :class:`RequestError`."""
    others = [name for name in state if not name.startswith(prefix)]
    if others:
        raise RequestError(f"not every name begins with {prefix!r}: {listing(others)}")
    return {name.removeprefix(prefix): tensor for name, tensor in state.items()}


@dataclass
class _Fit:
    """A checkpoint's tensors under the names of a model, and what had to be said of it until then."""

    wanted: dict[str, Tensor]
    given: dict[str, Tensor]
    head: str | None = None
    """A layer that may be missing or another one."""
    notes: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, model: nn.Module, state: State, prefix: str | None, new_head: str | None = None) -> Self:
        """Take off what stands before the names and leave out what is no weight."""
        wanted = {name: tensor for name, tensor in model.state_dict().items() if isinstance(tensor, Tensor)}
        fit = cls(wanted, dict(state), new_head)
        if prefix is not None:
            fit.given, others = _with_prefix(state, prefix)
            fit._say_left_out(others, f"their names do not begin with {prefix}")
        if not fit._complete(fit.given):
            fit._take_off()
        aside = [name for name, tensor in fit.given.items() if name not in wanted and _is_aside(name, tensor)]
        fit._leave_out(aside, "the model has no place for them")
        fit._leave_out_head()
        fit._leave_counters()
        return fit

    def checked(self) -> dict[str, Tensor]:
        """Return the tensors and log the notes; :class:`RequestError` where something does not fit."""
        if problems := self.problems():
            raise RequestError("the checkpoint does not fit the model:\n" + "\n".join(f"- {line}" for line in problems))
        for note in self.notes:
            log.warning("%s", note)
        return self.given

    def problems(self) -> list[str]:
        """Return one line for each kind of problem."""
        wanted, given = self.wanted, self.given
        common = [(name, wanted[name], given[name]) for name in wanted if name in given]
        missing = [name for name in wanted if name not in given]
        unexpected = [name for name in given if name not in wanted]
        found = {
            "missing": missing,
            "unexpected": unexpected,
            "of another shape": [
                f"{name} is {tuple(new.shape)}, should be {tuple(old.shape)}"
                for name, old, new in common
                if old.shape != new.shape
            ],
            "of another type": [
                f"{name} is {_type(new)}, should be {_type(old)}"
                for name, old, new in common
                if not _same_kind(old, new)
            ],
            "not exact in the model's type": [
                f"{name} from {_type(new)} to {_type(old)}"
                for name, old, new in common
                if _same_kind(old, new) and not _survives(new, old.dtype)
            ],
            "not finite": [
                f"{name} has {bad} of {new.numel()}" for name, _, new in common if (bad := _not_finite(new))
            ],
        }
        lines = [f"{kind} ({len(names)}): {listing(names)}" for kind, names in found.items() if names]
        if missing and any(_REPARAMETRISED.fullmatch(name) for name in unexpected):
            lines.append("its layers are reparametrised (pruned, weight norm): make that permanent before saving")
        return lines + (self._hint() if missing else [])

    def _complete(self, given: State) -> bool:
        """Tell whether all names fit, but for those that need not be there."""
        return all(name in given or self._may_lack(name) for name in self.wanted) and all(
            name in self.wanted or _is_aside(name, tensor) or self._of_head(name) for name, tensor in given.items()
        )

    def _may_lack(self, name: str) -> bool:
        return name.endswith(_COUNTER) or self._of_head(name)

    def _of_head(self, name: str) -> bool:
        return self.head is not None and name.startswith(f"{self.head}.")

    def _take_off(self) -> None:
        """Take off what stands before the names, where everything fits then."""
        for prefix, _ in self._prefixes().most_common(_MOST_PREFIXES):
            stripped = {name.removeprefix(prefix): tensor for name, tensor in self.given.items()}
            if len(stripped) == len(self.given) and self._complete(stripped):
                self._say_taken_off([prefix])
                self.given = stripped
                return
        # A wrapper may name the parts of one network: backbone.conv1.weight, head.fc.weight.
        ends = {name: self._longest_end(name) for name in self.given}
        renamed = {ends[name] or name: tensor for name, tensor in self.given.items()}
        if (
            len(renamed) == len(self.given)
            and self._complete(renamed)
            and all(self.wanted[name].shape == renamed[name].shape for name in self.wanted if name in renamed)
        ):
            self._say_taken_off(sorted({name.removesuffix(end) for name, end in ends.items() if end} - {""}))
            self.given = renamed

    def _prefixes(self) -> Counter[str]:
        """Count what may stand before names that the model has."""
        return Counter(
            name.removesuffix(rest)
            for name in self.given
            for rest in _ends(name)
            if rest != name and rest in self.wanted
        )

    def _longest_end(self, name: str) -> str:
        return next((rest for rest in _ends(name) if rest in self.wanted), "")

    def _hint(self) -> list[str]:
        """Say which prefix would make names match where none makes all fit: it is for the caller to decide."""
        now = sum(name in self.wanted for name in self.given)
        best = [(prefix, count) for prefix, count in self._prefixes().most_common(_MOST_PREFIXES) if count > now]
        if not best:
            return []
        most = best[0][1]
        return [
            f"with prefix={shown(prefix)} {count} of the model's {len(self.wanted)} names would be there"
            for prefix, count in best
            if count == most
        ]

    def _leave_out_head(self) -> None:
        """Leave out a head that is another one than the model's, whose own stays."""
        if self.head is None:
            return
        own = {name: tensor.shape for name, tensor in self.wanted.items() if self._of_head(name)}
        found = {name: tensor.shape for name, tensor in self.given.items() if self._of_head(name)}
        if own == found:
            return
        weight = f"{self.head}.weight"
        classes = f"is for {found[weight][0]} classes" if len(found.get(weight, ())) == 2 else "is another one"
        said = f"{classes} and left out" if found else "is missing"
        self.notes.append(f"the checkpoint's head {said}; the model's {own[weight][0]} classes get a new one")
        self.wanted = {name: tensor for name, tensor in self.wanted.items() if name not in own}
        self.given = {name: tensor for name, tensor in self.given.items() if name not in found}

    def _leave_counters(self) -> None:
        """Let the model keep its counters of batches where the checkpoint has the rest of the layer."""
        lacking = {
            name
            for name in self.wanted
            if name.endswith(_COUNTER)
            and name not in self.given
            and f"{name.removesuffix(_COUNTER)}running_mean" in self.given
        }
        if lacking:
            self.notes.append(f"the checkpoint lacks {len(lacking)} of {_COUNTER}; the model keeps its own")
            self.wanted = {name: tensor for name, tensor in self.wanted.items() if name not in lacking}

    def _leave_out(self, names: list[str], reason: str) -> None:
        self._say_left_out(names, reason)
        left = set(names)
        self.given = {name: tensor for name, tensor in self.given.items() if name not in left}

    def _say_left_out(self, names: Iterable[str], reason: str) -> None:
        if every := list(names):
            self.notes.append(f"left out of the checkpoint, as {shown(reason)} ({len(every)}): {listing(every)}")

    def _say_taken_off(self, prefixes: list[str]) -> None:
        quoted = " or ".join(f"'{shown(prefix)}'" for prefix in prefixes)
        self.notes.append(f"the checkpoint's names begin with {quoted}, which is taken off")


def _load(model: nn.Module, given: State) -> None:
    # Extra state is no tensor, and a checkpoint of tensors cannot have it; the model keeps its own.
    model.load_state_dict({**model.state_dict(), **given})


def _addressed(model: Classifier, state: State) -> tuple[nn.Module, State, str]:
    """Return what a checkpoint is of, the classifier or the network in it, its tensors, and what the head is called."""
    inside = {name.removeprefix(_TROJAN): each for name, each in state.items() if name.startswith(_TROJAN)}
    state = inside or state
    ours = all(name.startswith((_NETWORK, _NORMALISE)) for name in state)
    if ours and any(name.startswith(_NORMALISE) for name in state):
        return model, state, _NETWORK + model.head_name
    return model.network, state, model.head_name


def _with_prefix(state: State, prefix: str) -> tuple[dict[str, Tensor], list[str]]:
    """Return the tensors whose names begin with a prefix, without it, and the other names."""
    dotted = f"{prefix}."
    start = dotted if any(name.startswith(dotted) for name in state) else prefix
    found = {name.removeprefix(start): tensor for name, tensor in state.items() if name.startswith(start)}
    if not found:
        raise RequestError(f"no name in the checkpoint begins with prefix={shown(prefix)}; it has {listing(state)}")
    return found, [name for name in state if not name.startswith(start)]


def _is_aside(name: str, tensor: Tensor) -> bool:
    """Tell whether a tensor is beside the weights: a single number such as SWA's ``n_averaged``, or by its name."""
    return ("." not in name and tensor.ndim == 0) or _ASIDE.fullmatch(name) is not None


def _ends(name: str) -> list[str]:
    """Return a dotted name, and what is left of it without its first parts, longest first."""
    parts = name.split(".", _MOST_PARTS)
    return [".".join(parts[start:]) for start in range(len(parts))]


def _natural(name: str) -> list[tuple[int, str]]:
    """Return a key that sorts numbers in names by value."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in name.split(".")]


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
