"""The classifier: pixels in [0,1] to logits, with its normalisation inside."""

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Self, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import pad, unfold

from gifthorse.core.anatomy import examine, units
from gifthorse.core.errors import RequestError
from gifthorse.core.images import Images, to_floats
from gifthorse.core.networks import Layout, as_unwrapped, computed_tensors, copied, evaluating, in_layout, prepared
from gifthorse.core.reading import Reading


class Normalise(nn.Module):
    """Subtract the mean and divide by the standard deviation, channel by channel."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]):
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).view(1, -1, 1, 1))

    def forward(self, pixels: Tensor) -> Tensor:
        """Normalise ``(N, C, H, W)``."""
        return (pixels - self.mean) / self.std


class Classifier(nn.Module):
    """A network with its normalisation; no caller ever sees mean or standard deviation.

    ``network`` maps normalised ``(N, C, H, W)`` to logits ``(N, K)``, or to what ``reading`` reads these from
    (``training_reading`` in training mode). ``head`` names its last linear layer, or a convolution in its place, whose
    input is the penultimate layer; ``stages`` names its blocks, first to last, each giving ``(N, C', H', W')``.
    ``layout`` is the memory layout that the network insists on: images are brought into it, and its weights stay in it
    whatever is asked; ``None`` where any will do.
    """

    reform: nn.Module | None

    def __init__(
        self,
        network: nn.Module,
        *,
        mean: Sequence[float],
        std: Sequence[float],
        head: str,
        stages: tuple[str, ...],
        reading: Reading | None = None,
        training_reading: Reading | None = None,
        layout: Layout | None = None,
    ):
        super().__init__()
        self.reform = None
        self.normalise = Normalise(mean, std)
        self.network = network
        self.head_name = head
        self.stage_names = stages
        self.reading = reading
        self.training_reading = training_reading
        self.layout = layout

    @classmethod
    def wrap(
        cls,
        network: nn.Module,
        mean: Sequence[float],
        std: Sequence[float],
        *,
        head: str | None = None,
        stages: Sequence[str] | None = None,
        example_shape: tuple[int, int, int] | None = None,
        output: str | int | None = None,
        probabilities: bool = False,
    ) -> Self:
        """Wrap any network, finding its head, stages and layout by running it on noise of ``example_shape``.

        ``network`` maps ``(N, C, H, W)``, normalised by ``mean (C,)`` and ``std (C,)``, to logits ``(N, K)``; its
        weights, buffers and mode are left alone. Without an ``example_shape`` (channels, height, width) images are
        taken to be 32×32. ``head`` and ``stages`` name submodules where what is found is not what is meant; see
        :mod:`gifthorse.core.anatomy` for how they are found. ``output`` is the key, place or attribute of the logits
        in a network's output that is no tensor; not needed for one called "logits" or where one alone may be meant.
        With ``probabilities`` a softmax or sigmoid at the network's end is undone; log-probabilities are logits.

        Torch's wrappers (data parallel, compiled) are taken off. Of weights that are not float32 a copy is cast, which
        is logged. :class:`RequestError` where the network cannot be run, is TorchScript, or gives no logits of one
        linear layer or of a convolution to one map per class.
        """
        shape = example_shape or (len(mean), 32, 32)
        if not len(mean) == len(std) == shape[0]:
            raise RequestError(f"mean has {len(mean)} and std {len(std)} numbers; images have {shape[0]} channels")
        if not all(each > 0 for each in std):
            raise RequestError(f"std must be above 0, not {', '.join(map(str, std))}")
        network = prepared(network)
        head = None if head is None else as_unwrapped(head, network)
        stages = None if stages is None else [as_unwrapped(name, network) for name in stages]
        found = examine(network, shape, head, stages, output=output, probabilities=probabilities)
        if found.layout is not None and any(
            each.dim() == 4 and not each.is_contiguous(memory_format=found.layout) for each in network.parameters()
        ):
            network = copied(network)
        made = cls(
            network,
            mean=mean,
            std=std,
            head=found.head,
            stages=found.stages,
            reading=found.reading,
            training_reading=found.training,
            layout=found.layout,
        )
        made.normalise.to(made.device)
        return made if found.layout is None else made._apply(lambda tensor: tensor)

    def forward(self, pixels: Tensor) -> Tensor:
        """Return logits ``(N, K)`` for float pixels ``(N, C, H, W)`` in [0,1]."""
        seen = self.normalise(pixels if self.reform is None else self.reform(pixels))
        given = self.network(seen if self.layout is None else in_layout(seen, self.layout))
        reading = self.training_reading if self.training else self.reading
        logits: Tensor = given if reading is None else reading(given)
        return logits

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Move or cast all tensors, as torch does; weights stay in the layout that the network insists on."""
        layout = self.layout
        if layout is None:
            return cast(Self, super()._apply(fn, recurse))  # type: ignore[no-untyped-call]

        def kept(tensor: Tensor) -> Tensor:
            # As a row of numbers a tensor cannot be asked to have its channels last.
            return in_layout(fn(tensor.reshape(-1)).view(tensor.shape), layout)

        return cast(Self, super()._apply(kept, recurse))  # type: ignore[no-untyped-call]

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        memo.update(computed_tensors(self))
        made = type(self).__new__(type(self))
        memo[id(self)] = made
        made.__setstate__(copy.deepcopy(self.__getstate__(), memo))  # type: ignore[no-untyped-call]
        return made

    def behind(self, reform: nn.Module) -> Self:
        """Return an independent copy in evaluation mode that sees what ``reform`` makes of its input.

        ``reform`` maps float pixels ``(N, C, H, W)`` in [0,1] to such; its parameters are the copy's as well.
        """
        copied = self.clone()
        copied.reform = reform if copied.reform is None else nn.Sequential(reform, copied.reform)
        return copied.eval()

    @property
    def head(self) -> nn.Linear | nn.Conv2d:
        """The last linear layer, or the convolution in its place."""
        layer = self.network.get_submodule(self.head_name)
        assert isinstance(layer, nn.Linear | nn.Conv2d)
        return layer

    @property
    def head_weight(self) -> Tensor:
        """The head's weight as a matrix ``(K, D)`` over the penultimate layer."""
        return self.head.weight.flatten(1)

    @property
    def classes(self) -> int:
        """Number of classes."""
        return units(self.head)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.head.parameters()).device

    def penultimate(self, received: Tensor) -> Tensor:
        """Return the penultimate layer ``(N, D)`` of what the head receives.

        Of maps or tokens that is the mean over all places that the head looks at, of what it sees there: the mean of
        its outputs is linear in it.
        """
        head = self.head
        if isinstance(head, nn.Linear):
            return received if received.dim() == 2 else received.flatten(1, -2).mean(1)
        if head.kernel_size == head.stride == (1, 1) and not any(head._reversed_padding_repeated_twice):
            return received.mean((2, 3))
        padded = pad(received, head._reversed_padding_repeated_twice)
        seen: Tensor = unfold(padded, head.kernel_size, head.dilation, stride=head.stride)
        return seen.mean(2)

    def features(self, pixels: Tensor) -> Tensor:
        """Return the penultimate layer ``(N, D)``: what the head receives."""
        return self.features_and_logits(pixels)[0]

    def features_and_logits(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Return the penultimate layer ``(N, D)`` and the logits ``(N, K)`` of one forward pass."""
        received, logits = self._capture(self.head_name, pixels, of_input=True)
        return self.penultimate(received), logits

    def stage(self, name: str, pixels: Tensor) -> Tensor:
        """Return the output ``(N, C', H', W')`` of one of ``stage_names``."""
        return self._capture(name, pixels, of_input=False)[0]

    def stages_and_logits(self, pixels: Tensor) -> tuple[list[Tensor], Tensor]:
        """Return the output ``(N, C', H', W')`` of every stage, in order, and the logits ``(N, K)`` of one pass."""
        caught: dict[str, Tensor] = {}

        def keep(name: str, _: nn.Module, __: object, output: Tensor) -> None:
            caught.setdefault(name, output)

        hooks = [
            self.network.get_submodule(name).register_forward_hook(partial(keep, name)) for name in self.stage_names
        ]
        try:
            logits = self(pixels)
        finally:
            for hook in hooks:
                hook.remove()
        return [caught[name] for name in self.stage_names], logits

    def continue_from(self, name: str, maps: Tensor, image: Tensor) -> Tensor:
        """Return the logits ``(N, K)`` that the network would give if stage ``name`` gave ``maps (N, C', H', W')``.

        What comes before the stage runs once, on a single ``image (1, C, H, W)``, and is thrown away; so the network
        must not take anything else past the stage.
        """
        shown = maps if self.layout is None else in_layout(maps, self.layout)
        hook = self.network.get_submodule(name).register_forward_hook(lambda *_: shown)
        try:
            logits: Tensor = self(image)
        finally:
            hook.remove()
        return logits

    def _capture(self, name: str, pixels: Tensor, *, of_input: bool) -> tuple[Tensor, Tensor]:
        caught: list[Tensor] = []

        def keep(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            caught.append(inputs[0] if of_input else output)

        hook = self.network.get_submodule(name).register_forward_hook(keep)
        try:
            logits = self(pixels)
        finally:
            hook.remove()
        return caught[0], logits

    def clone(self) -> Self:
        """Return an independent copy in evaluation mode; :class:`RequestError` where something cannot be copied."""
        return cast(Self, copied(self).eval())


class BlackBox(nn.Module, ABC):
    """A classifier that can only be asked: no parts, no gradients, nothing that a method could change.

    Another is a subclass that answers.
    """

    shape: tuple[int, int, int]
    """Channels, height and width of an image."""
    classes: int
    """Number of classes."""

    def __init__(self) -> None:
        super().__init__()
        self.reform: nn.Module | None = None

    @property
    def device(self) -> torch.device:
        """Where it runs: the CPU."""
        return torch.device("cpu")

    @abstractmethod
    def answer(self, pixels: Tensor) -> Tensor:
        """Return logits ``float32 (N, K)``, detached, for float pixels ``(N, C, H, W)`` in [0,1]."""

    def forward(self, pixels: Tensor) -> Tensor:
        """Return logits ``float32 (N, K)``, detached, for float pixels ``(N, C, H, W)`` in [0,1].

        Raises :class:`RequestError` where a gradient with respect to the pixels is asked for.
        """
        if torch.is_grad_enabled() and pixels.requires_grad:
            raise RequestError("the model is a black box and gives no gradients, which this method needs")
        return self.answer(pixels if self.reform is None else self.reform(pixels))

    def behind(self, reform: nn.Module) -> Self:
        """Return the model behind a ``reform``, as :meth:`Classifier.behind` does."""
        made = copy.copy(self)
        made._modules = dict(self._modules)
        made.reform = reform if self.reform is None else nn.Sequential(reform, self.reform)
        return made

    def clone(self) -> Self:
        """Return the model itself: it has nothing that a method could change."""
        return self

    def __deepcopy__(self, _: dict[int, Any]) -> Self:
        return self


def inference_batch(device: torch.device) -> int:
    """Return a batch size that keeps the device busy; on a CPU one whose maps stay in the cache."""
    return 2048 if device.type == "cuda" else 64


@torch.inference_mode()
def predict(model: nn.Module, images: Images | Tensor) -> Tensor:
    """Return the logits ``float32 (N, K)`` of a model, batch by batch, on its device.

    ``images`` is a labelled set, or float pixels ``(N, C, H, W)`` in [0,1]. One in training mode answers in evaluation
    mode, and nothing in it changes.
    """
    pixels = images.pixels if isinstance(images, Images) else images
    if not len(pixels) and isinstance(model, Classifier | BlackBox):
        return torch.empty(0, model.classes, device=model.device)  # not every network takes no image at all
    weight = next(iter([*model.parameters(), *model.buffers()]), pixels)
    with evaluating(model):
        logits = [
            model(to_floats(part) if part.dtype == torch.uint8 else part).float()
            for part in (piece.to(weight.device) for piece in pixels.split(inference_batch(weight.device)))
        ]
    return torch.cat(logits) if logits else torch.empty(0, device=weight.device)
