"""The interface of every defense."""

from abc import abstractmethod
from typing import Any, ClassVar, Generic, TypeVar

from torch import Tensor

from gifthorse.core.configuration import Configuration
from gifthorse.core.outcomes import Outcome
from gifthorse.core.views import DataFreeView, Materials

V = TypeVar("V", bound=DataFreeView)


class Defense(Configuration, Generic[V]):
    """A defense sees a view, never the task or the trojan; its ``view`` says which.

    ``family`` is the name of one in :data:`gifthorse.core.family.FAMILIES`; the fields are the method's settings with
    the paper's defaults.
    """

    catalogue = "defense"

    family: ClassVar[str]
    view: ClassVar[type[DataFreeView]]

    @abstractmethod
    def defend(self, view: V, seed: int) -> Outcome:
        """Run the defense; the view is left as it was."""

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

    def skip(self, view: V) -> str | None:  # noqa: ARG002
        """Return one sentence saying why the method cannot be applied to this view, or ``None``."""
        return None

    @classmethod
    def describe(cls) -> dict[str, Any]:
        """Return the configuration's description with the family."""
        return {**super().describe(), "family": cls.family, "view": cls.view.__name__}
