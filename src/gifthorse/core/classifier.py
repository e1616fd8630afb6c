"""The classifier: pixels in [0,1] to logits, with its normalisation inside."""

import copy
from collections.abc import Sequence
from functools import partial
from typing import Self

import torch
from torch import Tensor, nn

from gifthorse.core.anatomy import examine
from gifthorse.core.images import Images, to_floats


class Normalise(nn.Module):
    """Subtract the mean and divide by the standard deviation, channel by channel."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]):
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1))

    def forward(self, pixels: Tensor) -> Tensor:
        """Normalise ``(N, C, H, W)``."""
        return (pixels - self.mean) / self.std


class Classifier(nn.Module):
    """A network with its normalisation; no caller ever sees mean or standard deviation.

    ``network`` maps normalised ``(N, C, H, W)`` to logits ``(N, K)``. ``head`` names its last linear layer, whose
    input is the penultimate layer; ``stages`` names its blocks, first to last, each giving ``(N, C', H', W')``.
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        mean: Sequence[float],
        std: Sequence[float],
        head: str,
        stages: tuple[str, ...],
    ):
        super().__init__()
        self.reform: nn.Module | None = None
        self.normalise = Normalise(mean, std)
        self.network = network
        self.head_name = head
        self.stage_names = stages

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
    ) -> Self:
        """Wrap any network, finding its head and its stages by running it once on noise of ``example_shape``.

        ``network`` maps ``(N, C, H, W)``, normalised by ``mean (C,)`` and ``std (C,)``, to logits ``(N, K)``; its
        weights, buffers and mode are left alone. Without an ``example_shape`` (channels, height, width) images are
        taken to be 32×32. ``head`` and ``stages`` name submodules where what is found is not what is meant; see
        :mod:`gifthorse.core.anatomy` for how they are found. :class:`RequestError` where the network cannot be run, or
        its logits are not the output of one linear layer.
        """
        shape = example_shape or (len(mean), 32, 32)
        found_head, found_stages = examine(network, shape, head, stages)
        return cls(network, mean=mean, std=std, head=found_head, stages=found_stages)

    def forward(self, pixels: Tensor) -> Tensor:
        """Return logits ``(N, K)`` for float pixels ``(N, C, H, W)`` in [0,1]."""
        seen = pixels if self.reform is None else self.reform(pixels)
        logits: Tensor = self.network(self.normalise(seen))
        return logits

    def behind(self, reform: nn.Module) -> Self:
        """Return an independent copy in evaluation mode that sees what ``reform`` makes of its input.

        ``reform`` maps float pixels ``(N, C, H, W)`` in [0,1] to such; its parameters are the copy's as well.
        """
        copied = self.clone()
        copied.reform = reform if copied.reform is None else nn.Sequential(reform, copied.reform)
        return copied.eval()

    @property
    def head(self) -> nn.Linear:
        """The last linear layer."""
        layer = self.network.get_submodule(self.head_name)
        assert isinstance(layer, nn.Linear)
        return layer

    @property
    def classes(self) -> int:
        """Number of classes."""
        return self.head.out_features

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.head.weight.device

    def features(self, pixels: Tensor) -> Tensor:
        """Return the penultimate layer ``(N, D)``: what the head receives."""
        return self._capture(self.head_name, pixels, of_input=True)[0]

    def features_and_logits(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Return the penultimate layer ``(N, D)`` and the logits ``(N, K)`` of one forward pass."""
        return self._capture(self.head_name, pixels, of_input=True)

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
        hook = self.network.get_submodule(name).register_forward_hook(lambda *_: maps)
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
        """Return an independent copy in evaluation mode."""
        return copy.deepcopy(self).eval()


def inference_batch(device: torch.device) -> int:
    """Return a batch size that keeps the device busy; on a CPU one whose maps stay in the cache."""
    return 2048 if device.type == "cuda" else 64


@torch.inference_mode()
def predict(model: nn.Module, images: Images | Tensor) -> Tensor:
    """Return the logits ``float32 (N, K)`` of a model in evaluation mode, batch by batch, on its device.

    ``images`` is a labelled set, or float pixels ``(N, C, H, W)`` in [0,1].
    """
    pixels = images.pixels if isinstance(images, Images) else images
    weight = next(iter([*model.parameters(), *model.buffers()]), pixels)
    logits = [
        model(to_floats(part) if part.dtype == torch.uint8 else part).float()
        for part in (piece.to(weight.device) for piece in pixels.split(inference_batch(weight.device)))
    ]
    return torch.cat(logits) if logits else torch.empty(0, device=weight.device)
