"""A cell of the grid: everything that decides a result, and how a profile fills in what was not said."""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from typing import Any

from gifthorse.attacks import ATTACKS
from gifthorse.bench.profiles import read_profile
from gifthorse.core.attack import Attack
from gifthorse.core.configuration import Catalogue, fingerprint
from gifthorse.core.defense import Defense
from gifthorse.core.recipe import AdversarialRecipe, Recipe, StandardRecipe
from gifthorse.core.task import Architecture, Dataset
from gifthorse.datasets import DATASETS
from gifthorse.defenses import DEFENSES
from gifthorse.models import ARCHITECTURES

RECIPES: Catalogue[Recipe] = Catalogue("training recipe", [StandardRecipe, AdversarialRecipe])


@dataclass(frozen=True)
class Cell:
    """One data set, model, training recipe, attack, defense (or none) and seed."""

    dataset: Dataset
    model: Architecture
    training: Recipe
    attack: Attack
    defense: Defense[Any] | None
    seed: int
    profile: str

    def benign_key(self) -> str:
        """Return the content key of the benign model."""
        parts = {"dataset": self.dataset, "model": self.model, "training": self.training}
        return self._key({name: part.to_dict() for name, part in parts.items()})

    def trojan_key(self) -> str:
        """Return the content key of the trojan."""
        return self._key({"benign": self.benign_key(), "attack": self.attack.to_dict()})

    def identity(self) -> str:
        """Return the content key of the whole cell: the record's id."""
        defense = self.defense.to_dict() if self.defense else None
        return self._key({"trojan": self.trojan_key(), "defense": defense, "profile": self.profile})

    def _key(self, parts: Mapping[str, Any]) -> str:
        # The version is part of the key: another release may compute something else under the same name.
        return fingerprint({**parts, "seed": self.seed, "gifthorse": metadata.version("gifthorse")})


def resolve(
    *,
    dataset: str,
    model: str | None = None,
    training: str = "standard",
    attack: str = "none",
    defense: str | None = None,
    seed: int = 0,
    profile: str = "laptop",
) -> Cell:
    """Build a cell from bracket strings; what they leave open comes from the profile, then from the paper."""
    values = read_profile(profile)
    name = DATASETS.find(dataset.split("[")[0].strip()).name

    def defaults(kind: str) -> dict[str, dict[str, Any]]:
        merged: dict[str, dict[str, Any]] = {}
        for scope in ("all", name):
            for key, fields in values.get(scope, {}).get(kind, {}).items():
                merged[key] = {**merged.get(key, {}), **fields}
        return merged

    return Cell(
        dataset=DATASETS.build(dataset, defaults("dataset")),
        model=ARCHITECTURES.build(model or values.get(name, {}).get("default_model", "small_cnn"), defaults("model")),
        training=RECIPES.build(training, defaults("training")),
        attack=ATTACKS.build(attack, defaults("attack")),
        defense=None if defense in (None, "none") else DEFENSES.build(defense, defaults("defense")),
        seed=seed,
        profile=profile,
    )
