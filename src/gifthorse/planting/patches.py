"""What attacks that stamp a small pattern share: how the trigger looks, and where it lies.

Paper: TrojanZoo, section 3.2 (equation 1), section 6.1 RQ1 and RQ2 (one pixel, random pixels), Table 20.
Differs: TrojanZoo does not print the trigger's place: top left, as in its code.
"""

from pathlib import Path
from typing import Literal

from pydantic import Field
from torch import Tensor

from gifthorse.core.attack import Attack
from gifthorse.core.classifier import Classifier
from gifthorse.core.errors import RequestError
from gifthorse.core.seeds import generator
from gifthorse.core.task import Task
from gifthorse.core.trigger import Trigger
from gifthorse.planting.pictures import read_picture
from gifthorse.triggers.moving_patch import MovingPatch
from gifthorse.triggers.patch import Corner, Patch, PatchPattern, fill, scattered, square
from gifthorse.triggers.pattern import PatternTrigger

Place = tuple[int, int]
Position = Corner | Literal["random"] | Place | tuple[Place, ...]


class ShapedAttack(Attack):
    """Stamps a trigger of a few pixels; what it shows is the attack's own."""

    trigger_size: int = Field(3, ge=1, description="side of the square trigger, in pixels")
    trigger_shape: Literal["square", "scattered"] = Field(
        "square", description="scattered: trigger_size² single pixels anywhere in the image, drawn once from the seed"
    )
    trigger_position: Position = Field(
        "top_left",
        description="corner, center, or [row, column] of a square trigger's top left; random: anywhere, new for every "
        "image; [[row, column], ...]: one of these, new for every image",
    )
    transparency: float = Field(0.0, ge=0, lt=1, description="α of the trigger: 0 opaque, towards 1 invisible")

    def mask(self, shape: tuple[int, int, int], seed: int, position: Corner | Place) -> Tensor:
        """Return the mask ``(1, H, W)`` of the wanted shape; :class:`RequestError` where it does not fit."""
        if self.trigger_shape == "scattered":
            return scattered(shape, self.trigger_size**2, generator(seed, "shape"))
        return square(shape, self.trigger_size, position)


class PatchAttack(ShapedAttack):
    """Stamps a pattern, or a picture, of a few pixels."""

    trigger_pattern: PatchPattern = Field(
        "white", description="what the trigger shows; random: drawn once from the seed"
    )
    trigger_image: str | None = Field(
        None, description="file of a picture that the trigger shows instead; its transparent pixels are not stamped"
    )
    also_at: tuple[Corner | Place, ...] = Field(
        (),
        description="further places of the trigger, corners or [row, column]; in another corner it is mirrored",
    )

    def files(self) -> tuple[Path, ...]:
        """Return the trigger's picture, if one is named."""
        return () if self.trigger_image is None else (Path(self.trigger_image),)

    def check(self, task: Task) -> None:
        """Refuse a trigger that does not fit."""
        self.initial_trigger(task, 0)
        super().check(task)

    def make_trigger(self, task: Task, benign: Classifier, seed: int) -> Trigger:  # noqa: ARG002
        """Return the trigger that training starts with, on the CPU; an attack may optimise it on the benign model."""
        return self.initial_trigger(task, seed)

    def initial_trigger(self, task: Task, seed: int) -> PatternTrigger:
        """Return a trigger of the wanted shape, at its place, that shows the pattern or the picture."""
        shape, size, position = task.train.shape, self.trigger_size, self.trigger_position
        pattern = fill(shape, self.trigger_pattern, generator(seed, "pattern"))
        fixed = self.trigger_shape == "square" and (isinstance(position, str) or isinstance(position[0], int))
        if self.also_at and (not fixed or position == "random"):
            raise RequestError(
                "also_at needs trigger_shape=square and one trigger_position: only such a trigger has copies"
            )
        if self.trigger_shape == "scattered":
            if position == "random" or isinstance(position[0], tuple):
                raise RequestError(
                    "a place that is new for every image needs trigger_shape=square: scattered pixels do not move"
                )
            if self.trigger_image is not None:
                raise RequestError("trigger_image needs trigger_shape=square: scattered pixels show no picture")
            return Patch(self.mask(shape, seed, "center"), pattern, self.transparency)
        if position == "random":
            square(shape, size, "center")
            return MovingPatch(*self._window(pattern), self.transparency)
        if not isinstance(position, str) and isinstance(position[0], tuple):
            for place in position:
                square(shape, size, place)
            return MovingPatch(*self._window(pattern), self.transparency, position)
        mask = self.mask(shape, seed, position)
        if self.trigger_image is not None:
            inside = mask.bool()
            window, shown = self._window(pattern)
            pattern[inside.expand_as(pattern)] = shown.flatten()
            mask[inside] = window.flatten()
        for other in self.also_at:
            self._copy(mask, pattern, square(shape, size, position), square(shape, size, other), other)
        return Patch(mask, pattern, self.transparency)

    def _copy(self, mask: Tensor, pattern: Tensor, here: Tensor, there: Tensor, place: Corner | Place) -> None:
        """Show within ``there (1, H, W)`` what mask and pattern show within ``here``, mirrored between corners."""
        axes = mirrored(self.trigger_position, place)
        for shown in (mask, pattern):
            inner = shown[here.bool().expand_as(shown)].view(-1, self.trigger_size, self.trigger_size)
            shown[there.bool().expand_as(shown)] = inner.flip(axes).flatten()

    def _window(self, pattern: Tensor) -> tuple[Tensor, Tensor]:
        """Return a window ``(1, h, w)`` and what shows in it: a piece of the pattern, or the picture."""
        size = self.trigger_size
        if self.trigger_image is None:
            return pattern.new_ones(1, size, size), pattern[:, :size, :size].contiguous()
        shown, window = read_picture(Path(self.trigger_image), len(pattern), size, size)
        return window, shown


def mirrored(first: Position, second: Position) -> list[int]:
    """Return the axes, 1 and 2 of ``(C, H, W)``, along which two corners lie opposite; none where one is no corner.

    >>> mirrored("top_left", "bottom_left"), mirrored("top_left", "bottom_right"), mirrored("center", (0, 0))
    ([1], [1, 2], [])
    """
    if not (isinstance(first, str) and isinstance(second, str)) or {first, second} & {"center", "random"}:
        return []
    pairs = zip((1, 2), first.split("_"), second.split("_"), strict=True)
    return [axis for axis, one, other in pairs if one != other]
