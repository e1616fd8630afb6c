"""A cell of the grid: everything that decides a result, and how a profile fills in what was not said."""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from typing import Any

from gifthorse.attacks import ATTACKS
from gifthorse.bench.profiles import read_profile
from gifthorse.core.architecture import Architecture
from gifthorse.core.attack import Attack
from gifthorse.core.configuration import Catalogue, Configuration, file_digest, fingerprint
from gifthorse.core.defense import Defense
from gifthorse.core.errors import RequestError
from gifthorse.core.recipe import AdversarialRecipe, Recipe, StandardRecipe
from gifthorse.core.task import Dataset
from gifthorse.datasets import DATASETS
from gifthorse.defenses import DEFENSES
from gifthorse.models import ARCHITECTURES
from gifthorse.training.heads import HEADS, Head

RECIPES: Catalogue[Recipe] = Catalogue("training recipe", [StandardRecipe, AdversarialRecipe])


@dataclass(frozen=True)
class Downstream:
    """A downstream user: the head that they put on the delivered network, and the images that they tune it on."""

    head: Head
    dataset: Dataset

    def to_dict(self) -> dict[str, dict[str, Any]]:
        """Return every field of both, JSON-ready."""
        return {"head": self.head.to_dict(), "dataset": self.dataset.to_dict()}


@dataclass(frozen=True)
class Cell:
    """One data set, model, training recipe, attack and seed, and a defense, a downstream user or neither."""

    dataset: Dataset
    model: Architecture
    training: Recipe
    attack: Attack
    defense: Defense[Any] | None
    seed: int
    profile: str
    downstream: Downstream | None = None

    def __post_init__(self) -> None:
        if self.defense is not None and self.downstream is not None:
            both = f"a defense ({self.defense.name}) and a downstream head ({self.downstream.head.name})"
            raise RequestError(f"{both} cannot be combined: leave one out")

    def benign_key(self) -> str:
        """Return the content key of the benign model."""
        return self._key({}, dataset=self.dataset, model=self.model, training=self.training)

    def trojan_key(self) -> str:
        """Return the content key of the trojan."""
        return self._key({"benign": self.benign_key()}, attack=self.attack)

    def identity(self) -> str:
        """Return the content key of the whole cell: the record's id."""
        defense = self.defense.to_dict() if self.defense else None
        parts = {"trojan": self.trojan_key(), "defense": defense, "profile": self.profile}
        if self.downstream is not None:
            parts["downstream"] = self.downstream.to_dict()
        return self._key(parts)

    def _key(self, parts: Mapping[str, Any], **configurations: Configuration) -> str:
        # The version is part of the key: another release may compute something else under the same name.
        key = {**parts, "seed": self.seed, "gifthorse": metadata.version("gifthorse")}
        key |= {name: configuration.to_dict() for name, configuration in configurations.items()}
        files = [path for configuration in configurations.values() for path in configuration.files()]
        if files:
            key["files"] = {str(path): file_digest(path) for path in files}
        return fingerprint(key)


def resolve(
    *,
    dataset: str,
    model: str | None = None,
    training: str = "standard",
    attack: str = "none",
    defense: str | None = None,
    downstream: str | None = None,
    downstream_dataset: str | None = None,
    seed: int = 0,
    profile: str = "laptop",
) -> Cell:
    """Build a cell from bracket strings; what they leave open comes from the profile, then from the paper.

    A downstream user has images of the cell's own data set unless another is named.
    """
    values = read_profile(profile)
    name = _dataset_name(dataset)
    if downstream == "none":
        downstream = None
    if downstream is None and downstream_dataset is not None:
        raise RequestError(f"the downstream data set '{downstream_dataset}' needs a downstream head to be tuned on it")

    def defaults(kind: str, *scopes: str) -> dict[str, dict[str, Any]]:
        merged: dict[str, dict[str, Any]] = {}
        for scope in ("all", *scopes):
            for key, fields in values.get(scope, {}).get(kind, {}).items():
                merged[key] = {**merged.get(key, {}), **fields}
        return merged

    upstream = DATASETS.build(dataset, defaults("dataset", name))
    network = ARCHITECTURES.build(
        model or values.get(name, {}).get("default_model", "small_cnn"), defaults("model", name)
    )
    user = None
    if downstream is not None:
        images = upstream
        if downstream_dataset is not None:
            images = DATASETS.build(downstream_dataset, defaults("dataset", _dataset_name(downstream_dataset)))
        user = Downstream(HEADS.build(downstream), images)

    return Cell(
        dataset=upstream,
        model=network,
        training=RECIPES.build(training, defaults("training", name, network.name)),
        attack=ATTACKS.build(attack, defaults("attack", name)),
        defense=None if defense in (None, "none") else DEFENSES.build(defense, defaults("defense", name)),
        seed=seed,
        profile=profile,
        downstream=user,
    )


def _dataset_name(request: str) -> str:
    return DATASETS.find(request.split("[")[0].strip()).name
