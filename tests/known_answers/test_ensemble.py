"""Several filters, or several detectors, as one."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from gifthorse.core.defense import CleanImagesDefense, Defense
from gifthorse.core.images import Images
from gifthorse.core.outcomes import InputScreen, ModelVerdict
from gifthorse.core.views import ModelView
from gifthorse.defenses.combination.ensemble import Ensemble, rank
from gifthorse.defenses.combination.pipeline import Pipeline
from gifthorse.defenses.inspection.neural_cleanse import NeuralCleanse
from gifthorse.defenses.inspection.tabor import Tabor
from worlds import linear_classifier, live_pixel_view, noise_images

SHAPE = (1, 8, 8)


class Reader(CleanImagesDefense[ModelView]):
    """Scores an input by one of its pixels, in units of its own."""

    name = "reader"
    family = "filtering"
    view = ModelView

    column: int = 0
    unit: float = 1.0

    def defend(self, view: ModelView, seed: int) -> InputScreen:
        SEEN.append(view.clean)
        return InputScreen(self.read, 0.0)

    def read(self, pixels: Tensor) -> Tensor:
        return self.unit * pixels[:, 0, 0, self.column]


SEEN: list[Images] = []


def view(count: int = 400) -> ModelView:
    return ModelView(linear_classifier(torch.zeros(4, *SHAPE), torch.zeros(4)), noise_images(count, SHAPE, 4))


def screen(combine: Any, *members: Defense[Any], fpr: float = 0.1) -> Callable[[Tensor], Tensor]:
    ensemble = Ensemble(defenses=members, combine=combine, fpr=fpr)
    assert ensemble.skip(view()) is None
    outcome = ensemble.defend(view(), 0)
    assert isinstance(outcome, InputScreen)
    return lambda pixels: outcome.score(pixels) > outcome.threshold


def test_a_rank_is_the_share_below_with_ties_counting_half() -> None:
    ranks = rank(torch.tensor([-1.0, 1.0, 1.5, 2.0, 9.0]), torch.tensor([1.0, 2.0, 2.0, 3.0]))
    assert ranks.tolist() == [0, 0.125, 0.25, 0.5, 1]


def test_the_units_of_members_do_not_matter() -> None:
    shown = noise_images(200, SHAPE, 4, seed=5).floats()
    first = screen("mean", Reader(), Reader(column=1))(shown)
    assert torch.equal(first, screen("mean", Reader(unit=1000), Reader(column=1))(shown))


@pytest.mark.parametrize("combine", ["mean", "any"])
def test_the_false_positive_rate_is_that_of_all_together(combine: str) -> None:
    """Two independent filters that are each wrong in a tenth would be wrong in a fifth."""
    fresh = noise_images(4000, SHAPE, 4, seed=7).floats()
    flagged = screen(combine, Reader(), Reader(column=1))(fresh)
    assert 0.05 < float(flagged.float().mean()) < 0.16


def test_one_member_suffices_for_any_and_not_for_the_mean() -> None:
    shown = torch.full((1, *SHAPE), 0.5)
    shown[:, :, 0, 0] = 1.0
    assert screen("any", Reader(), Reader(column=1), fpr=0.05)(shown).all()
    assert not screen("mean", Reader(), Reader(column=1), fpr=0.05)(shown).any()


def test_members_never_see_the_images_that_they_are_ranked_on() -> None:
    SEEN.clear()
    given, ensemble = view(), Ensemble(defenses=(Reader(), Reader(column=1)))
    ensemble.defend(given, 0)
    shown = {pixels.numpy().tobytes() for images in SEEN for pixels in images.pixels}
    assert [len(images) for images in SEEN] == [200, 200]
    assert len(shown) == 200
    few = str(ensemble.skip(view(78)))
    assert "needs 80 clean images at fpr=0.05; there are 78" in few
    assert ensemble.skip(view(80)) is None


@pytest.mark.parametrize("combine", ["mean", "any"])
def test_detectors_that_agree_are_believed(combine: Any) -> None:
    live = live_pixel_view(target=2, row=7, column=5)
    members = (NeuralCleanse(steps=60, batches=1, batch_size=32), Tabor(steps=60, batches=1, batch_size=32, lr=0.1))
    verdict = Ensemble(defenses=members, combine=combine).defend(live, 0)
    assert isinstance(verdict, ModelVerdict)
    assert verdict.scores is not None
    assert int(verdict.scores.argmax()) == 2
    assert verdict.index == float(verdict.scores.max())
    assert verdict.triggers is not None


def test_an_ensemble_may_end_a_pipeline_and_stands_in_the_table_of_its_members() -> None:
    ensemble = Ensemble(defenses=(Reader(), Reader(column=1)))
    assert ensemble.judged_as() == "filtering"
    assert Ensemble(defenses=(NeuralCleanse(), Tabor())).judged_as() == "inspection"
    assert Pipeline(defenses=(NeuralCleanse(), ensemble)).judged_as() == "filtering"
