"""What a defender holds. The type of the view is the threat model; none has a path to the truth.

Another threat model is another subclass, and a line in :data:`gifthorse.bench.views.VIEWS` that says how it is built.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar, Literal, Protocol, TypeVar

import torch
from torch import Tensor

from gifthorse.core.architecture import Architecture
from gifthorse.core.classifier import BlackBox, Classifier, predict
from gifthorse.core.errors import RequestError
from gifthorse.core.images import Images
from gifthorse.core.networks import reason_of
from gifthorse.core.recipe import Recipe
from gifthorse.core.seeds import generator

if TYPE_CHECKING:
    from gifthorse.core.outcomes import ModelVerdict

Split = Literal["train", "holdout", "test"]

LOOKED_AT = 64
"""Of so many images, the first, it is looked at whether a model can judge them."""


class Trainer(Protocol):
    """How the model in question was made: its architecture, its recipe, and the means to make another."""

    @property
    def architecture(self) -> Architecture:
        """The shape of the network."""

    @property
    def recipe(self) -> Recipe:
        """The settings of its training."""

    def train(self, images: Images, seed: int) -> Classifier:
        """Return a fresh classifier trained on ``images``; the same seed gives the same weights."""


@dataclass(frozen=True, eq=False)
class Materials:
    """What a defender has before there is a model to look at: clean images, and how such models are made.

    ``clean`` is empty where its view shows no clean images.
    """

    clean: Images
    trainer: Trainer

    @property
    def device(self) -> torch.device:
        """Where the images are, and models should be."""
        return self.clean.device


@dataclass(frozen=True, eq=False)
class DataFreeView:
    """The model alone: an independent copy in evaluation mode, all of whose weights can be trained.

    What is handed in stays as it is: its mode, its frozen weights and its gradients are its owner's.

    ``shape`` is that of the images it takes, ``(C, H, W)``; ``trainer`` says how it was made, ``None`` where nobody
    knows; ``prepared`` is what :meth:`gifthorse.Defense.prepare` made for the defense that looks at it;
    ``verdict`` is what a detector said before it in a pipeline.

    ``holds`` declares of which of the task's sets a view may show images: ``holdout`` are the defender's clean ones,
    ``train`` those that the model was trained on, as delivered. Contracts look for images of all others.
    """

    holds: ClassVar[frozenset[Split]] = frozenset()

    model: Classifier
    shape: tuple[int, int, int] = field(kw_only=True)
    trainer: Trainer | None = field(default=None, kw_only=True)
    prepared: Mapping[str, Tensor] = field(default_factory=dict, kw_only=True)
    verdict: "ModelVerdict | None" = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        given: object = self.model
        if not isinstance(given, Classifier | BlackBox):
            wrapped = "Classifier.wrap(network, mean, std, example_shape=...) makes one of any network"
            raise RequestError(f"a view shows a Classifier, not a {type(given).__name__}; {wrapped}")
        model = given.clone()
        for weight in model.parameters():
            weight.requires_grad_(weight.is_floating_point())
            weight.grad = None
        object.__setattr__(self, "model", model)

    @cached_property
    def unusable(self) -> str | None:
        """One sentence why nothing can be measured of the model on images like those shown, or ``None``; found once.

        Where no images are shown it is asked about noise.
        """
        images = self._shown()
        if images is not None and images.classes > self.classes:
            return f"the images are of {images.classes} classes, the model knows {self.classes}"
        if any(weight.is_meta for weight in self.model.parameters()):
            return "the model's weights are on the meta device, where they have no values"
        try:
            logits = predict(self.model, self._some(LOOKED_AT))
        except RequestError as error:
            return str(error)
        except torch.OutOfMemoryError:
            raise  # says nothing of the model
        except Exception as error:  # noqa: BLE001  # a network of somebody's may raise anything
            size = "×".join(map(str, self.shape))
            return f"the model cannot take images of {size} (channels, height, width): {reason_of(error)}"
        on = "noise" if images is None else "the images"
        return None if logits.isfinite().all() else f"the model's outputs on {on} are not finite numbers"

    @cached_property
    def without_gradients(self) -> str | None:
        """One sentence why the model's answers have no gradient with respect to an image, or ``None``; found once."""
        with torch.inference_mode(False), torch.enable_grad():
            pixels = self._some(2).clone().requires_grad_()
            try:
                slopes: tuple[Tensor | None, ...] = torch.autograd.grad(
                    self.model(pixels).sum(), pixels, allow_unused=True
                )
            except torch.OutOfMemoryError:
                raise
            except Exception as error:  # noqa: BLE001  # a network of somebody's may raise anything
                return f"the model gives no gradients: {reason_of(error)}"
        if slopes[0] is not None:
            return None
        return "no gradient of the model's answers reaches the image, as where it runs under torch.no_grad()"

    def _shown(self) -> Images | None:
        """Return the clean images, or those trained on; ``None`` where there are none."""
        return next((each for each in (getattr(self, name, None) for name in ("clean", "suspect")) if each), None)

    def _some(self, most: int) -> Tensor:
        """Return float pixels of the first images shown, or noise, on the model's device."""
        images = self._shown()
        if images is None:
            return torch.rand(2, *self.shape, generator=generator(0, "noise")).to(self.device)
        return images.take(slice(most)).floats().to(self.device)

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.model.device

    @property
    def classes(self) -> int:
        """Number of classes."""
        return self.model.classes


@dataclass(frozen=True, eq=False)
class ModelView(DataFreeView):
    """The model and some clean labelled images that it was not trained on."""

    holds = frozenset({"holdout"})

    clean: Images
    shape: tuple[int, int, int] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "shape", self.clean.shape)
        DataFreeView.__post_init__(self)


@dataclass(frozen=True, eq=False)
class SuspectDataView(DataFreeView):
    """The model and the images and labels that it was trained on, some of which may be poisoned.

    ``trainer`` trains another model on those that a defense keeps.
    """

    holds = frozenset({"train"})

    suspect: Images
    trainer: Trainer = field(kw_only=True)
    shape: tuple[int, int, int] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "shape", self.suspect.shape)
        DataFreeView.__post_init__(self)


@dataclass(frozen=True, eq=False)
class SuspectAndCleanView(SuspectDataView, ModelView):
    """The model, the images that it was trained on as delivered, and some clean ones that it was not trained on."""

    holds = frozenset({"train", "holdout"})


@dataclass(frozen=True, eq=False)
class KnownClassView(ModelView):
    """The model, clean images, and the knowledge of which classes are attacked: ``known_classes``, in order."""

    known_classes: tuple[int, ...]


Kind = TypeVar("Kind", bound=DataFreeView)


def joined(views: Iterable[type[DataFreeView]]) -> type[DataFreeView] | None:
    """Return the type that shows what each of ``views`` shows and as little else as there is; ``None`` where none does.

    >>> joined([ModelView, DataFreeView]).__name__, joined([ModelView, SuspectDataView]).__name__
    ('ModelView', 'SuspectAndCleanView')
    """
    wanted = tuple(views)
    enough = [each for each in _kinds(DataFreeView) if all(issubclass(each, view) for view in wanted)]
    return min(enough, key=lambda each: len(each.__mro__), default=None)


def narrowed(view: DataFreeView, kind: type[Kind]) -> Kind:
    """Return what a view of a wider type shows as one of ``kind``: whoever asked for that gets to see no more."""
    return kind(**{each.name: getattr(view, each.name) for each in fields(kind) if each.init})


def _kinds(view: type[DataFreeView]) -> list[type[DataFreeView]]:
    return [view, *(each for kind in view.__subclasses__() for each in _kinds(kind))]
