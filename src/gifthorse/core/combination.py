"""What defenses that are made of several share: what these see, and what they prepare."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Self

from pydantic import model_validator
from torch import Tensor

from gifthorse.core.defense import CleanImagesDefense, Defense, V
from gifthorse.core.views import DataFreeView, Materials, joined, narrowed


class CombinedDefense(CleanImagesDefense[V]):
    """Several defenses as one, which all have the same clean images; ``defenses`` is a field of the method."""

    family = "combination"
    black_box = True  # each of them is asked

    defenses: tuple[Defense[Any], ...]

    @model_validator(mode="after")
    def _can_share_a_view(self) -> Self:
        for defense in self.defenses:
            if getattr(defense, "clean_share", None) is not None:
                raise ValueError(f"all of them have the same clean images: set clean_share here, not of {defense.name}")
        if self._view() is None:
            raise ValueError(f"no view shows all that {', '.join(each.name for each in self.defenses)} need")
        return self

    def sees(self) -> type[DataFreeView]:
        """Return the type that shows what each of them needs and as little else as there is."""
        view = self._view()
        assert view is not None
        return view

    def _view(self) -> type[DataFreeView] | None:
        return joined([self.view, *(each.sees() for each in self.defenses)])

    def prepare(self, materials: Materials, seed: int) -> dict[str, Tensor]:
        """Let each prepare what it needs, under its place."""
        return {
            f"{place}/{name}": tensor
            for place, defense in enumerate(self.defenses)
            if defense.preparation() is not None
            for name, tensor in defense.prepare(materials, seed).items()
        }

    def preparation(self) -> dict[str, Any] | None:
        """Return what decides it for each that prepares anything, by its place, and with how many images."""
        parts = {str(place): defense.preparation() for place, defense in enumerate(self.defenses)}
        return {**parts, "clean_share": self.clean_share} if any(parts.values()) else None

    def shown(self, place: int, view: DataFreeView, prepared: Mapping[str, Tensor]) -> Any:
        """Return what the defense at a place sees of a view: no more than it asks for, and what it prepared itself."""
        own = f"{place}/"
        mine = {name.removeprefix(own): tensor for name, tensor in prepared.items() if name.startswith(own)}
        return replace(narrowed(view, self.defenses[place].sees()), prepared=mine)
