"""The interface of every defense."""

from abc import abstractmethod
from collections.abc import Callable
from functools import wraps
from typing import Annotated, Any, ClassVar, Generic, TypeVar, get_type_hints

from pydantic import Field
from torch import Tensor

from gifthorse.core.classifier import Classifier
from gifthorse.core.configuration import Configuration
from gifthorse.core.errors import RequestError
from gifthorse.core.evasion import OFFERS, Attacker, Evasion, Offer
from gifthorse.core.outcomes import Outcome
from gifthorse.core.views import DataFreeView, Materials

V = TypeVar("V", bound=DataFreeView)


class Defense(Configuration, Generic[V]):
    """A defense sees a view, never the task or the trojan; its ``view`` says which.

    ``family`` is the name of one in :data:`gifthorse.core.family.FAMILIES`; the fields are the method's settings with
    the paper's defaults. One that asks the model for nothing but answers says so by ``black_box``: it runs on models
    that have no layers and no gradients to be seen. A method whose settings decide what it sees, or which family its
    answer belongs to, says so in :meth:`sees` and :meth:`judged_as`. ``offers`` says how an attacker who knows the
    method can train against it, see :meth:`evasion`; ``None`` where nobody has said.
    """

    catalogue = "defense"

    family: ClassVar[str]
    view: ClassVar[type[DataFreeView]]
    black_box: ClassVar[bool] = False
    offers: ClassVar[Offer | None] = None

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "skip" in vars(cls):
            cls.skip = _once_the_model_will_do(cls.skip)  # type: ignore[method-assign,assignment]

    @abstractmethod
    def defend(self, view: V, seed: int) -> Outcome:
        """Run the defense; the view is left as it was."""

    def sees(self) -> type[DataFreeView]:
        """Return the type of the view that it is given."""
        return self.view

    def judged_as(self) -> str:
        """Return the family in whose table its results stand."""
        return self.family

    def clean_images(self, trained_on: int) -> int | None:  # noqa: ARG002
        """Return how many clean images the defender has, where ``trained_on`` are trained on; ``None``: all there are.

        Nothing but its threat model decides it, see :class:`CleanImagesDefense`.
        """
        return None

    def prepare(self, materials: Materials, seed: int) -> dict[str, Tensor]:  # noqa: ARG002
        """Return what is made before any model is looked at, by name, in types that numpy has; nothing here.

        Autoencoders, shadow and reference models depend on the defender's images and the architecture alone. What is
        returned is computed once and shared by all cells, whatever their seeds; ``defend`` finds it in
        ``view.prepared``.
        """
        return {}

    def preparation(self) -> dict[str, Any] | None:
        """Return the settings, JSON-ready, that decide what is prepared: all of them; ``None`` where nothing is."""
        return None if type(self).prepare is Defense.prepare else self.to_dict()

    def evasion_refusal(self, model: Classifier, shape: tuple[int, int, int]) -> str | None:  # noqa: ARG002
        """Return one sentence why no attacker can train against these settings, or ``None``; asked before any training.

        ``model`` is an untrained one of the attacker's architecture, ``shape`` that of the images.
        """
        return None

    def evasion(self, attacker: Attacker, seed: int) -> Evasion:  # noqa: ARG002
        """Return what an attacker does in training to evade the method, who knows it and its settings and no more.

        Draws follow from the attacker's ``seed``. :class:`NotApplicableError`, with a sentence, where a surrogate is
        too poor to learn from, or the method does not suit such images.
        """
        raise RequestError(f"'{self.name}' offers an attacker nothing to train against")

    def skip(self, view: V) -> str | None:
        """Return one sentence saying why the method cannot be applied to this view, or ``None``.

        Whatever a method says in its own is asked once the model will do: it shows what the method needs, can take the
        images, and its answers are finite.
        """
        return self._unfit_model(view)

    def _unfit_model(self, view: V) -> str | None:
        model: object = view.model
        if not self.black_box and not isinstance(model, Classifier):
            return f"needs the model's layers and gradients; this one is a black box ({type(model).__name__})"
        return view.unusable or (None if self.black_box else view.without_gradients)

    @classmethod
    def describe(cls) -> dict[str, Any]:
        """Return the configuration's description with the family, the view, and what it offers an attacker."""
        offers = "" if cls.offers is None else f"{cls.offers}: {OFFERS[cls.offers]}"
        return {**super().describe(), "family": cls.family, "view": cls.view.__name__, "offers": offers}


def _once_the_model_will_do(skip: Callable[[Any, Any], str | None]) -> Callable[[Any, Any], str | None]:
    @wraps(skip)
    def asked(self: Defense[Any], view: Any) -> str | None:
        return self._unfit_model(view) or skip(self, view)

    return asked


def outcome_of(cls: type[Defense[Any]]) -> type[Outcome] | None:
    """Return what the method's own signature says that it hands back; ``None`` where it says nothing."""
    try:
        found = get_type_hints(cls.defend).get("return")
    except NameError:
        return None
    return found if isinstance(found, type) and issubclass(found, Outcome) else None


class CleanImagesDefense(Defense[V]):
    """A defense that is given clean images; how many is a setting like any other, and so in every record and key.

    The images are the first of those that the data set holds out: whoever has fewer has some of the same.
    """

    clean_share: Annotated[int, Field(ge=1)] | Annotated[float, Field(gt=0, lt=1)] | None = Field(
        None,
        description="clean images that the defender has: a share of the number of training images, below 1, or their "
        "number; null: all that the data set holds out",
    )

    def clean_images(self, trained_on: int) -> int | None:
        """Return the number that ``clean_share`` stands for."""
        share = self.clean_share
        return max(round(share * trained_on), 1) if isinstance(share, float) else share
