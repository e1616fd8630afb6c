"""The interface of every defense."""

from abc import abstractmethod
from typing import Any, ClassVar, Generic, Protocol, TypeVar, runtime_checkable

from torch import Tensor, nn

from gifthorse.core.configuration import Configuration
from gifthorse.core.images import Images
from gifthorse.core.outcomes import Outcome
from gifthorse.core.views import DataFreeView, Materials

V = TypeVar("V", bound=DataFreeView)


@runtime_checkable
class Evadable(Protocol):
    """A defense that an attacker can train against: it tells how suspicious a given model would look.

    An attacker has data and a model of its own and knows the method and its settings; a defender's images, model and
    random draws it has not.
    """

    def penalty(self, model: nn.Module, stamped: Tensor, targets: Tensor, clean: Images, seed: int) -> Tensor:
        """Return a scalar, differentiable in the model's weights and in the pixels; lower is less suspicious.

        ``stamped (N, C, H, W)`` in [0,1] should get ``targets (N,)``; ``clean`` are images of the attacker's own.
        Another ``seed`` is another draw of what the method draws. The model's mode is the attacker's choice: in
        training mode all that the method shows it enters the statistics of its batch normalisation.
        """


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
