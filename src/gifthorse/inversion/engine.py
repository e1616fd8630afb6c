"""Many triggers, one batch: optimises a trigger per candidate (a class, a neuron, a restart), all side by side.

A method says what is optimised (a :class:`TriggerSource`), its loss, and its schedule; batching is known here alone.
Losses of different candidates are summed; where they share no variable, Adam, which works element by element, gives
each what its own search would give. Finished candidates leave the batch.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from gifthorse.core.classifier import Classifier
from gifthorse.core.images import Images
from gifthorse.core.progress import track
from gifthorse.core.seeds import generator
from gifthorse.core.trigger import blend
from gifthorse.inversion.frozen import freeze
from gifthorse.training.optimisers import adam
from gifthorse.training.precision import fast_arithmetic

SQUASH = 2 - 1e-7
LOOK = 10
"""Steps between two looks at which candidates are finished: each look makes the host wait for the device."""


@dataclass(frozen=True)
class Budget:
    """How long to search: ``steps`` of ``batches`` mini-batches of ``batch_size`` images per candidate.

    ``max_batch`` bounds the stamped images in one forward pass, and with them the memory; ``None`` leaves the choice
    to the device (a CPU gains nothing from stacking candidates, a GPU does).
    """

    steps: int
    batches: int
    batch_size: int
    lr: float
    betas: tuple[float, float] = (0.5, 0.9)
    max_batch: int | None = None

    def candidates_at_once(self, device: torch.device) -> int:
        """Return how many candidates share a forward pass."""
        largest = self.max_batch or (4096 if device.type == "cuda" else 128)
        return max(largest // self.batch_size, 1)


class TriggerSource(nn.Module, ABC):
    """What is optimised: its parameters show one trigger ``(D, H, W)`` per candidate."""

    @abstractmethod
    def forward(self, candidates: Tensor) -> Tensor:
        """Return the triggers ``(A, D, H, W)`` of ``candidates (A,)``."""

    @abstractmethod
    def stamp(self, pixels: Tensor, shown: Tensor) -> Tensor:
        """Return ``(A, B, C, H, W)``: every image of ``(B, C, H, W)`` with every trigger of ``(A, D, H, W)``."""

    @abstractmethod
    def size(self, shown: Tensor) -> Tensor:
        """Return the size ``(A,)`` of triggers ``(A, D, H, W)``: what is to be small."""


class Masked(TriggerSource):
    """A mask and a pattern per candidate, ``D = 1 + C``, each value the tanh of a free one (Neural Cleanse IV-B)."""

    def __init__(self, raw: Tensor):
        super().__init__()
        self.raw = nn.Parameter(raw)

    @classmethod
    def uniform(cls, candidates: int, images: Images, seed: int) -> "Masked":
        """Return masks and patterns drawn uniformly from [0,1], as the authors of Neural Cleanse start."""
        (channels, height, width), random = images.shape, generator(seed, "start", device=images.device)
        start = torch.rand(candidates, 1 + channels, height, width, generator=random, device=images.device)
        return cls(torch.atanh((start - 0.5) * SQUASH))

    def forward(self, candidates: Tensor) -> Tensor:
        """Return masks and patterns, the mask first."""
        return torch.tanh(self.raw[candidates]) / SQUASH + 0.5

    def stamp(self, pixels: Tensor, shown: Tensor) -> Tensor:
        """Blend each pattern in where its mask says so."""
        return blend(pixels, shown[:, None, :1], shown[:, None, 1:], 0.0)

    def size(self, shown: Tensor) -> Tensor:
        """Return the L1 norm of the masks: summed over pixels, colours counted once."""
        return shown[:, 0].sum((1, 2))


@dataclass(frozen=True, eq=False)
class Trial:
    """What one mini-batch of ``B`` images showed of ``A`` candidates; the loss is made of it.

    ``candidates (A,)`` are positions among all, ``targets (A,)`` the classes they should reach, ``shown (A, D, H, W)``
    their triggers and ``size (A,)`` how large these are; ``pixels (B, C, H, W)`` and ``labels (B,)`` are the clean
    images; ``logits (A, B, K)`` the model's answers to the stamped ones and ``maps`` the watched stages' ``(A, B, C',
    H', W')``.
    """

    candidates: Tensor
    targets: Tensor
    shown: Tensor
    size: Tensor
    pixels: Tensor
    labels: Tensor
    logits: Tensor
    maps: Mapping[str, Tensor]
    respond: Callable[[Tensor], Tensor]
    """Another forward pass: logits ``(A, B, K)`` of any ``(A, B, C, H, W)``."""

    def cross_entropy(self, logits: Tensor | None = None, labels: Tensor | None = None) -> Tensor:
        """Return the mean cross-entropy ``(A,)`` of logits ``(A, B, K)``: of the stamped images, with the targets.

        ``labels`` is ``(A, B)`` where other answers than the targets are wanted.
        """
        found = self.logits if logits is None else logits
        wanted = self.targets.unsqueeze(1).expand(found.shape[:2]) if labels is None else labels
        return functional.cross_entropy(found.transpose(1, 2), wanted, reduction="none").mean(1)


class Schedule(Protocol):
    """One method's bookkeeping over all candidates; ``finished`` is ``bool (K,)`` on the model's device."""

    finished: Tensor

    def observe(self, active: Tensor, accuracy: Tensor, size: Tensor, shown: Tensor) -> object:
        """Take in one step of the candidates ``active (A,)``: mean accuracy and size, and the last triggers tried."""


class Best:
    """The smallest trigger of every candidate that reached its class for at least ``success`` of a step's images.

    A schedule that does nothing else, or part of one that does.
    """

    def __init__(self, candidates: int, success: float, device: torch.device):
        self.success = success
        self.finished = torch.zeros(candidates, dtype=torch.bool, device=device)
        self.size = torch.full((candidates,), torch.inf, device=device)
        self._shown: Tensor | None = None

    def observe(self, active: Tensor, accuracy: Tensor, size: Tensor, shown: Tensor) -> Tensor:
        """Keep what is better; returns ``bool (A,)``: which candidates improved."""
        better = (accuracy >= self.success) & (size < self.size[active])
        if self._shown is None:
            self._shown = shown.new_zeros(len(self.size), *shown.shape[1:])
        self._shown[active] = torch.where(better.view(-1, 1, 1, 1), shown, self._shown[active])
        self.size[active] = torch.where(better, size, self.size[active])
        return better

    def settle(self, final: Tensor) -> Tensor:
        """Return the best triggers ``(K, D, H, W)``, and the ``final`` one where none succeeded."""
        if self._shown is None:
            return final
        return torch.where(self.size.isfinite().view(-1, 1, 1, 1), self._shown, final)


def invert(
    model: Classifier,
    images: Images,
    targets: Tensor,
    source: TriggerSource,
    loss: Callable[[Trial], Tensor],
    schedule: Schedule | None,
    budget: Budget,
    seed: int,
    watch: Sequence[str] = (),
) -> Tensor:
    """Search a trigger for each of ``targets (K,)``, minimising the sum of ``loss``, which gives ``(A,)`` for a trial.

    ``watch`` names stages of the model whose maps the loss needs. Returns the triggers ``(K, D, H, W)`` as they are
    at the end; a schedule keeps better ones on the way, and without one the search just runs its steps.
    """
    device = images.device
    random = generator(seed, "inversion", device=device)
    source = source.to(device).train()
    optimizer = adam(source.parameters(), budget.lr, budget.betas)
    together = budget.candidates_at_once(device)
    active = torch.arange(len(targets), device=device)

    with watching(freeze(model), watch) as run:
        for step in track(range(budget.steps), "trigger inversion", budget.steps):
            if schedule is not None and step % LOOK == 0:
                active = schedule.finished.logical_not().nonzero().squeeze(1)
                if len(active) == 0:
                    break
            hits, sizes = torch.zeros(2, len(active), device=device)
            order = torch.rand(budget.batches, len(images), generator=random, device=device).argsort(1)
            for index in order[:, : budget.batch_size]:
                batch = images.take(index)
                pixels = batch.floats()
                triggers = source(active)
                # Gradients gather in a leaf, so that a source that shares its work between candidates does it once.
                leaf = triggers.detach().requires_grad_()
                for part in torch.arange(len(active), device=device).split(together):
                    candidates, shown = active[part], leaf[part]
                    size = source.size(shown)
                    logits, maps = run(source.stamp(pixels, shown))
                    trial = Trial(
                        candidates,
                        targets[candidates],
                        shown,
                        size,
                        pixels,
                        batch.labels,
                        logits,
                        maps,
                        lambda stamped: run(stamped)[0],
                    )
                    loss(trial).sum().backward()
                    hits[part] += reached(logits, trial.targets.unsqueeze(1)).float().mean(1)
                    sizes[part] += size.detach()
                optimizer.zero_grad()
                triggers.backward(leaf.grad)
                optimizer.step()
            if schedule is not None:
                schedule.observe(active, hits / budget.batches, sizes / budget.batches, leaf.detach())
    with torch.no_grad():
        final: Tensor = source.eval()(torch.arange(len(targets), device=device))
    return final


def reached(logits: Tensor, targets: Tensor) -> Tensor:
    """Return ``bool (..., N)``: which of ``logits (..., N, K)`` have their largest entry at the target alone.

    ``targets`` broadcasts to ``(..., N)``. A tie is no success: it would be one for the lower class only, and logits in
    bfloat16 are often equal.
    """
    wanted = targets.expand(logits.shape[:-1]).unsqueeze(-1)
    rivals = logits.detach().scatter(-1, wanted, -torch.inf).amax(-1, keepdim=True)
    return (logits.detach().gather(-1, wanted) > rivals).squeeze(-1)


@contextmanager
def watching(
    frozen: Classifier, stages: Sequence[str]
) -> Iterator[Callable[[Tensor], tuple[Tensor, dict[str, Tensor]]]]:
    """Give a function from ``(A, B, C, H, W)`` to logits ``(A, B, K)`` and the maps of stages, in fast arithmetic."""
    caught: dict[str, Tensor] = {}

    def keep(name: str, _: nn.Module, __: object, output: Tensor) -> None:
        caught[name] = output

    def run(stamped: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        candidates = stamped.shape[:2]
        with fast_arithmetic(stamped.device):
            logits: Tensor = frozen(stamped.flatten(0, 1).contiguous(memory_format=torch.channels_last))
        maps = {name: maps.float().unflatten(0, candidates) for name, maps in caught.items()}
        caught.clear()
        return logits.float().unflatten(0, candidates), maps

    hooks = [
        frozen.network.get_submodule(name).register_forward_hook(partial(keep, name)) for name in dict.fromkeys(stages)
    ]
    try:
        yield run
    finally:
        for hook in hooks:
            hook.remove()


def best_restart(shown: Tensor, size: Tensor, restarts: int) -> Tensor:
    """Return the smallest of every target's ``restarts`` triggers, ``(K, D, H, W)``.

    ``shown (restarts · K, D, H, W)`` holds all first attempts, then all second ones, and so on; ``size`` is infinite
    where an attempt failed.
    """
    sizes = size.view(restarts, -1)
    chosen = sizes.argmin(0)
    kept: Tensor = shown.unflatten(0, sizes.shape)[chosen, torch.arange(len(chosen), device=size.device)]
    return kept
