"""The interface of every defense."""

from abc import abstractmethod
from typing import Any, ClassVar, Generic, TypeVar

from gifthorse.core.configuration import Configuration
from gifthorse.core.outcomes import Outcome
from gifthorse.core.views import DataFreeView

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

    def skip(self, view: V) -> str | None:  # noqa: ARG002
        """Return one sentence saying why the method cannot be applied to this view, or ``None``."""
        return None

    @classmethod
    def describe(cls) -> dict[str, Any]:
        """Return the configuration's description with the family."""
        return {**super().describe(), "family": cls.family, "view": cls.view.__name__}
