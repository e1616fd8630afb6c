"""Inverted images in place of clean ones: a defense that needs clean images works on what the model itself gives away.

Paper: Yan et al. 2023 (DHBE), arXiv:2306.08009, section 5.4.4, says that inversion cannot be directly combined with
    blind or targeted erasing, and shows no figures. Here it is combined, so that it can be measured. Images: Yin et al.
    2020, arXiv:1912.08795 (:mod:`gifthorse.inversion.inverted_images`).
Differs: nothing. Each image has the class that it was made for, whether or not the model gives it that. The number of
    images is our choice: as many as DHBE shows a fine-tuned model in an epoch. The result stands in the table of the
    inner defense's family.
"""

from typing import Any, Self

from pydantic import Field, model_validator

from gifthorse.core.defense import Defense
from gifthorse.core.errors import NotApplicableError
from gifthorse.core.outcomes import Outcome
from gifthorse.core.seeds import derive
from gifthorse.core.views import DataFreeView, ModelView, narrowed
from gifthorse.inversion.inverted_images import ImageInversion


class InvertedImages(Defense[DataFreeView], ImageInversion):
    """Makes images that the model knows and hands them to a defense that needs clean ones."""

    name = "inverted_images"
    paper = "DHBE (Yan et al. 2023), section 5.4.4; Yin et al. 2020, arXiv:1912.08795"
    variants = ("inverted_images[defense=neural_cleanse_unlearning]",)
    family = "combination"
    view = DataFreeView

    defense: Defense[Any] = Field("finetuning", description="what is handed the images as its clean ones")  # type: ignore[arg-type]
    images: int = Field(2000, ge=2, description="images that are made, as many of each class")

    @model_validator(mode="after")
    def _images_are_all_it_needs(self) -> Self:
        """Refuse what could never work, before anything is trained."""
        inner = self.defense
        if getattr(inner, "clean_share", None) is not None:
            raise ValueError(f"{inner.name} gets all images that are made: set images here, not its clean_share")
        if not issubclass(ModelView, inner.sees()):
            raise ValueError(f"{inner.name} needs a {inner.sees().__name__}: inverted images do not make one")
        if inner.preparation() is not None:
            raise ValueError(f"{inner.name} prepares from clean images before there is a model to invert")
        return self

    def judged_as(self) -> str:
        """Return the inner defense's family."""
        return self.defense.judged_as()

    def skip(self, view: DataFreeView) -> str | None:
        """Ask for images of every class; the inner defense is asked once they are there."""
        return self.unable(view)

    def defend(self, view: DataFreeView, seed: int) -> Outcome:
        """Make images and run the inner defense; :class:`NotApplicableError` where that refuses them."""
        images = self.invert(view.model, view.shape, derive(seed, self.name, "images"))
        shown = ModelView(view.model, images, trainer=view.trainer, verdict=view.verdict)
        given = narrowed(shown, self.defense.sees())
        reason = self.defense.skip(given)
        if reason is not None:
            raise NotApplicableError(f"{self.defense.name}: {reason}")
        return self.defense.defend(given, derive(seed, self.name))
