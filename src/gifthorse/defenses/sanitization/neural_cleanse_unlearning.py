"""Neural Cleanse's unlearning: the recovered trigger is shown with the right labels until the model ignores it.

Paper: Wang et al. 2019, IEEE S&P, section VI-C (a fifth of the clean images carry the recovered trigger); DHBE (Yan et
    al. 2023), section 5.1.3 and appendix D (20 epochs of 2000 samples as its fine-tuning; the defender is told which
    class is attacked: target_known=true); Li et al. 2020, arXiv:2004.04692, appendix B (the authors' settings, among
    them a single epoch: epochs=1,schedule=constant,samples=0).
Differs: DHBE's share of stamped samples and its learning rate are lost in print: the share is that of Wang et al., the
    rate that of its fine-tuning. The detector has its own settings and may be another; behind one in a pipeline it is
    that one's verdict that counts. Where no class is suspect, and none is known, the model is handed back as it was.
"""

from collections.abc import Sequence
from typing import Any, Self

from pydantic import Field, model_validator
from torch import Tensor

from gifthorse.core.defense import CleanImagesDefense, Defense
from gifthorse.core.errors import NotApplicableError
from gifthorse.core.outcomes import CleanModel, ModelVerdict
from gifthorse.core.seeds import derive, generator
from gifthorse.core.views import DataFreeView, KnownClassView, Materials, ModelView, narrowed
from gifthorse.training.erased import erased, with_triggers
from gifthorse.training.finetuning import Unlearning, too_few, unlearning


class NeuralCleanseUnlearning(CleanImagesDefense[ModelView], Unlearning):
    """Recovers the trigger of the suspect class and tunes the model to ignore it."""

    name = "neural_cleanse_unlearning"
    aliases = ("nc_unlearning", "nc_unlearn")
    paper = "Wang et al. 2019, IEEE S&P, section VI-C; DHBE (Yan et al. 2023), appendix D"
    variants = (
        "neural_cleanse_unlearning[target_known=true]",
        "neural_cleanse_unlearning[detector=neural_cleanse[reference=2]]",
    )
    family = "sanitization"
    view = ModelView

    detector: Defense[Any] = Field("neural_cleanse", description="what recovers a trigger of every class")  # type: ignore[arg-type]
    target_known: bool = Field(False, description="the defender is told which classes are attacked, as DHBE assumes")

    @model_validator(mode="after")
    def _detector_sees_what_is_shown(self) -> Self:
        if getattr(self.detector, "clean_share", None) is not None:
            raise ValueError(f"it has the same clean images: set clean_share here, not of {self.detector.name}")
        if not issubclass(ModelView, self.detector.sees()):
            raise ValueError(f"{self.detector.name} needs a {self.detector.sees().__name__}, which this method has not")
        return self

    def sees(self) -> type[DataFreeView]:
        """Return the view that tells the attacked classes, if they are known."""
        return KnownClassView if self.target_known else ModelView

    def prepare(self, materials: Materials, seed: int) -> dict[str, Tensor]:
        """Let the detector prepare what it needs."""
        return {} if self.detector.preparation() is None else self.detector.prepare(materials, seed)

    def preparation(self) -> dict[str, Any] | None:
        """Return what decides it: the detector's settings, and with how many images."""
        settings = self.detector.preparation()
        return settings and {**settings, "clean_share": self.clean_share}

    def skip(self, view: ModelView) -> str | None:
        """Ask for enough images to tune on, and what the detector asks for."""
        return too_few(view.clean) or self.detector.skip(narrowed(view, self.detector.sees()))

    def defend(self, view: ModelView, seed: int) -> CleanModel:
        """Recover, tell which classes are meant, tune a copy."""
        seen = narrowed(view, self.detector.sees())
        verdict = view.verdict or self.detector.defend(seen, derive(seed, "detector"))
        if not isinstance(verdict, ModelVerdict) or verdict.triggers is None:
            raise NotApplicableError(f"{self.detector.name} recovers no trigger that could be unlearnt")
        classes: Sequence[int] = [] if verdict.suspect is None else [verdict.suspect]
        if isinstance(view, KnownClassView):
            classes = view.known_classes
        model, triggered = view.model.clone(), None
        if classes:
            triggered = with_triggers(verdict.triggers, classes, view.clean)
            random = generator(seed, self.name, "stamp", device=view.device)
            mix = unlearning(verdict.triggers, classes, self.stamped, random)
            self.tune(model, view.clean, derive(seed, self.name), mix)
        return erased(view.model, model, view.clean, triggered=triggered)
