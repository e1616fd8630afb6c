"""A cell of the grid: everything that decides a result, and how a profile fills in what was not said."""

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import cached_property
from importlib import metadata
from pathlib import Path
from typing import Any

from gifthorse.analyses import ANALYSES
from gifthorse.attacks import ATTACKS
from gifthorse.bench.plugins import plugins_of
from gifthorse.bench.profiles import read_profile
from gifthorse.bench.source import source_files, sources_of
from gifthorse.core.analysis import Analysis
from gifthorse.core.architecture import Architecture
from gifthorse.core.attack import Attack, Preparation, Twin
from gifthorse.core.configuration import Catalogue, Configuration, fingerprint, request_defaults
from gifthorse.core.contents import content_digest, content_digests
from gifthorse.core.defense import Defense
from gifthorse.core.errors import RequestError
from gifthorse.core.recipe import AdversarialRecipe, Recipe, StandardRecipe
from gifthorse.core.stamping import Stamping
from gifthorse.core.task import Dataset
from gifthorse.datasets import DATASETS
from gifthorse.defenses import DEFENSES
from gifthorse.models import ARCHITECTURES
from gifthorse.stampings import STAMPS
from gifthorse.training.heads import HEADS, Head

DEFENDER = 0
"""The seed of what a defender prepares: that is done once, and then models of all seeds are looked at."""

RECIPES: Catalogue[Recipe] = Catalogue(
    "training recipe", [StandardRecipe, AdversarialRecipe], read_profile("paper")["presets"]["training"]
)


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
    """One data set, model, training recipe, attack and seed, and a defense, a downstream user or neither.

    A ``stamp`` says how the trigger is shown where that is not as it was planted, an ``analysis`` what looks at the
    model instead of a judge.
    """

    dataset: Dataset
    model: Architecture
    training: Recipe
    attack: Attack
    defense: Defense[Any] | None
    seed: int
    profile: str
    downstream: Downstream | None = None
    stamp: Stamping | None = None
    analysis: Analysis | None = None
    data_root: Path | None = None
    """Where the images lie, which a runner knows; keys hold what they are then, not where."""

    def __post_init__(self) -> None:
        if self.defense is not None and self.downstream is not None:
            both = f"a defense ({self.defense.name}) and a downstream head ({self.downstream.head.name})"
            raise RequestError(f"{both} cannot be combined: leave one out")
        for each in (self.stamp, self.analysis):
            if each is not None and self.downstream is not None:
                one = f"{'an' if each.catalogue == 'analysis' else 'a'} {each.catalogue} ({each.name})"
                both = f"{one} and a downstream head ({self.downstream.head.name})"
                raise RequestError(f"{both} cannot be combined: leave one out")

    def benign_key(self) -> str:
        """Return the content key of the benign model."""
        return self._keys[0]

    def twin_key(self, twin: Twin) -> str:
        """Return the content key of a benign twin of this cell's model."""
        return self._key({"benign": self.benign_key()}, twin=twin)

    def attack_prepared_key(self, preparation: Preparation) -> str:
        """Return the content key of what an attack prepares on this cell's benign model."""
        return self._key({"benign": self.benign_key()}, preparation=preparation)

    def trojan_key(self) -> str:
        """Return the content key of the trojan."""
        return self._keys[1]

    def prepared_key(self) -> str | None:
        """Return the content key of what the defense prepares: the same for models of all seeds; ``None`` without."""
        settings = None if self.defense is None else self.defense.preparation()
        if self.defense is None or settings is None:
            return None
        return fingerprint(
            {
                "materials": replace(self, seed=DEFENDER).benign_key(),
                "view": self.defense.sees().__name__,
                "defense": [self.defense.name, *sources_of(*self.defense.walk())],
                "settings": settings,
                "files": [content_digest(path) for each in self.defense.walk() for path in each.files()],
            }
        )

    def identity(self) -> str:
        """Return the content key of the whole cell: the record's id."""
        return self._keys[2]

    def files(self) -> set[Path]:
        """Return every file whose content decides the record: those that requests name, and the classes' source."""
        inner, root = self._inner(), self.data_root
        images = {path for each in inner if isinstance(each, Dataset) and root for path in each.sources(root)}
        return {path for each in inner for path in each.files()} | images | source_files(*map(type, inner))

    def data_digest(self, dataset: Dataset) -> str:
        """Return the digest of a data set under this cell's data root, as it was when it was first asked for."""
        if dataset not in self._digests:
            self._digests[dataset] = dataset.digest(self.data_root)
        return self._digests[dataset]

    @cached_property
    def _digests(self) -> dict[Dataset, str]:
        return {}

    def named_files(self) -> dict[str, str | None]:
        """Return the digests by path of the files and folders that the request names, other than the data sets."""
        return content_digests(path for each in self._inner() if not isinstance(each, Dataset) for path in each.files())

    def plugins(self) -> dict[str, str]:
        """Return the SHA-256 by path of the plugins that gave classes of the request."""
        return {str(plugin.source.path): plugin.source.digest for plugin in plugins_of(*map(type, self._inner()))}

    def _inner(self) -> list[Configuration]:
        """Return every configuration of the request."""
        user = {} if self.downstream is None else vars(self.downstream)
        parts = (
            self.dataset,
            self.model,
            self.training,
            self.attack,
            self.defense,
            self.stamp,
            self.analysis,
            *user.values(),
        )
        return [each for part in parts if part is not None for each in part.walk()]

    @cached_property
    def _keys(self) -> tuple[str, str, str]:
        """The three keys, computed once: a request may name large files."""
        benign = self._key({}, dataset=self.dataset, model=self.model, training=self.training)
        trojan = self._key({"benign": benign}, attack=self.attack)
        user = {} if self.downstream is None else vars(self.downstream)
        ends = {"defense": self.defense, "stamp": self.stamp, "analysis": self.analysis, **user}
        return benign, trojan, self._key({"trojan": trojan, "profile": self.profile}, **ends)

    def _key(self, parts: Mapping[str, Any], **configurations: Configuration | None) -> str:
        # The version is part of the key: another release may compute something else under the same name. So is the
        # source of the classes: an edited method must not answer with its old result.
        present = {name: each for name, each in configurations.items() if each is not None}
        inner = [each for configuration in present.values() for each in configuration.walk()]
        key = {**parts, "seed": self.seed, "gifthorse": metadata.version("gifthorse")}
        key |= {name: configuration.to_dict() for name, configuration in present.items()}
        key["data"] = [self.data_digest(each) for each in inner if isinstance(each, Dataset)]
        named = {path for each in inner if not isinstance(each, Dataset) for path in each.files()}
        key["files"] = content_digests(named)
        key["source"] = sources_of(*inner)
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
    stamp: str | None = None,
    analysis: str | None = None,
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

    def filled(*scopes: str) -> AbstractContextManager[None]:
        merged: dict[str, dict[str, dict[str, Any]]] = {}
        for scope in ("all", *scopes):
            for table, entries in values.get(scope, {}).items():
                kind = merged.setdefault({"training": RECIPES.kind}.get(table, table), {})
                for key, fields in entries.items() if table != "default_model" else ():
                    kind[key] = {**kind.get(key, {}), **fields}
        return request_defaults(merged)

    with filled(name):
        upstream = DATASETS.build(dataset)
        network = ARCHITECTURES.build(model or values.get(name, {}).get("default_model", "small_cnn"))
    user = None
    if downstream is not None:
        images = downstream_dataset or dataset
        with filled(_dataset_name(images)):
            user = Downstream(HEADS.build(downstream), DATASETS.build(images))

    with filled(name, network.name):
        return Cell(
            dataset=upstream,
            model=network,
            training=RECIPES.build(training),
            attack=ATTACKS.build(attack),
            defense=None if defense in (None, "none") else DEFENSES.build(defense),
            seed=seed,
            profile=profile,
            downstream=user,
            stamp=None if stamp in (None, "none") else STAMPS.build(stamp),
            analysis=None if analysis in (None, "none") else ANALYSES.build(analysis),
        )


def _dataset_name(request: str) -> str:
    return DATASETS.find(request.split("[")[0].strip()).name
