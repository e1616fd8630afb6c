"""Unlearning a recovered trigger, by itself and behind a detector."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from gifthorse.core.classifier import predict
from gifthorse.core.defense import Defense
from gifthorse.core.errors import NotApplicableError
from gifthorse.core.images import Images
from gifthorse.core.outcomes import CleanModel, ModelVerdict, RecoveredTriggers
from gifthorse.core.views import KnownClassView, ModelView
from gifthorse.defenses import DEFENSES
from gifthorse.defenses.combination.pipeline import Pipeline
from gifthorse.defenses.inspection.neural_cleanse import NeuralCleanse
from gifthorse.defenses.reformation.transformation import Flip
from gifthorse.defenses.sanitization.finetuning import Finetuning
from gifthorse.defenses.sanitization.neural_cleanse_unlearning import NeuralCleanseUnlearning
from gifthorse.training.finetuning import unlearning
from gifthorse.training.loop import Batch
from worlds import live_pixel_view


class Sure(Defense[ModelView]):
    """Suspects class 2 for the planted pixel."""

    name = "sure"
    family = "inspection"
    view = ModelView

    def defend(self, view: ModelView, seed: int) -> ModelVerdict:
        return ModelVerdict(torch.eye(6)[2], 2, recovered((2, 7, 5)))


DETECTOR = Sure()
UNLEARNING = NeuralCleanseUnlearning(
    detector=DETECTOR, epochs=30, schedule="constant", samples=0, lr=2.0, momentum=0.0, weight_decay=0.0
)
TUNING = Finetuning(**{name: getattr(UNLEARNING, name) for name in Finetuning.model_fields})


def view() -> ModelView:
    return live_pixel_view(target=2, row=7, column=5)


def obeying(model: torch.nn.Module, images: Images) -> float:
    """The share of images of other classes that the planted pixel sends to its class."""
    others = images.take(images.labels != 2)
    stamped = others.floats()
    stamped[:, :, 7, 5] = 1
    return float((predict(model, stamped).argmax(1) == 2).float().mean())


def accuracy(model: torch.nn.Module, images: Images) -> float:
    return float((predict(model, images).argmax(1) == images.labels).float().mean())


def recovered(*live: tuple[int, int, int]) -> RecoveredTriggers:
    """One white pixel for each class, row and column; none for the other classes."""
    mask = torch.zeros(6, 1, 8, 8)
    for label, row, column in live:
        mask[label, 0, row, column] = 1
    return RecoveredTriggers(mask, torch.ones(6, 1, 8, 8))


@pytest.mark.parametrize(
    "defense", [UNLEARNING, Pipeline(defenses=(DETECTOR, TUNING)), Pipeline(defenses=(DETECTOR, UNLEARNING))]
)
def test_the_trigger_of_the_suspect_class_is_unlearnt(defense: NeuralCleanseUnlearning | Pipeline) -> None:
    given = view()
    assert obeying(given.model, given.clean) == 1
    outcome = defense.defend(given, 0)
    assert isinstance(outcome, CleanModel)
    assert obeying(outcome.model, given.clean) < 0.1
    assert accuracy(outcome.model, given.clean) == 1


def test_fine_tuning_alone_leaves_it() -> None:
    given = view()
    assert obeying(TUNING.defend(given, 0).model, given.clean) == 1
    told = replace(given, verdict=ModelVerdict(torch.arange(6.0), 2, recovered((2, 7, 5))))
    assert obeying(TUNING.defend(told, 0).model, given.clean) < 0.1
    assert obeying(TUNING.changed(stamped=0.0).defend(told, 0).model, given.clean) == 1
    unsuspected = replace(told, verdict=ModelVerdict(torch.arange(6.0), None, recovered((2, 7, 5))))
    assert obeying(TUNING.defend(unsuspected, 0).model, given.clean) == 1


def test_where_no_class_is_suspect_the_model_stays_as_it_was() -> None:
    given = view()
    quiet = replace(given, verdict=ModelVerdict(torch.arange(6.0), None, recovered((2, 7, 5))))
    same = UNLEARNING.defend(quiet, 0).model
    assert all(torch.equal(a, b) for a, b in zip(same.parameters(), given.model.parameters(), strict=True))


def test_whoever_knows_the_class_unlearns_its_trigger_whatever_the_verdict() -> None:
    """DHBE, section 5.1.3; a wrong verdict would have another class unlearnt."""
    given, triggers = view(), recovered((2, 7, 5), (4, 0, 0))
    wrong = ModelVerdict(torch.arange(6.0), 4, triggers)
    assert UNLEARNING.sees() is ModelView
    assert UNLEARNING.model_copy(update={"target_known": True}).sees() is KnownClassView
    known = KnownClassView(given.model, given.clean, (2,), verdict=wrong)
    assert obeying(UNLEARNING.model_copy(update={"target_known": True}).defend(known, 0).model, given.clean) < 0.1
    assert obeying(UNLEARNING.defend(replace(given, verdict=wrong), 0).model, given.clean) == 1


def test_a_detector_that_recovers_nothing_is_told_so() -> None:
    silent = replace(view(), verdict=ModelVerdict(torch.arange(6.0), 5))
    with pytest.raises(NotApplicableError, match="sure recovers no trigger"):
        UNLEARNING.defend(silent, 0)
    with pytest.raises(NotApplicableError, match="flip recovers no trigger"):
        UNLEARNING.model_copy(update={"detector": Flip()}).defend(view(), 0)


def stamped_in(pixels: Tensor, row: int, column: int) -> Tensor:
    return pixels[:, 0, row, column] == 1


@pytest.mark.parametrize(("share", "count"), [(0.2, 10), (1.0, 50), (0.001, 1)])
def test_a_share_of_every_batch_is_stamped_and_keeps_its_labels(share: float, count: int) -> None:
    random = torch.Generator().manual_seed(0)
    batch = Batch(torch.zeros(50, 1, 8, 8), torch.arange(50) % 6)
    mix = unlearning(recovered((2, 7, 5)), [2], share, random)
    first, second = mix(batch), mix(batch)
    assert int(stamped_in(first.pixels, 7, 5).sum()) == int(stamped_in(second.pixels, 7, 5).sum()) == count
    assert int(first.pixels.sum()) == count
    assert torch.equal(first.labels, batch.labels)
    assert not batch.pixels.any()
    assert count == 50 or not torch.equal(first.pixels, second.pixels)


def test_several_known_classes_take_turns() -> None:
    mix = unlearning(recovered((2, 7, 5), (4, 0, 0)), [2, 4], 0.4, torch.Generator().manual_seed(0))
    pixels = mix(Batch(torch.zeros(50, 1, 8, 8), torch.arange(50) % 6)).pixels
    first, second = stamped_in(pixels, 7, 5), stamped_in(pixels, 0, 0)
    assert (int(first.sum()), int(second.sum()), int((first & second).sum())) == (10, 10, 0)


def test_what_the_detector_prepares_is_prepared_for_it() -> None:
    plain = DEFENSES.build("neural_cleanse_unlearning")
    assert plain.preparation() is None
    referring = NeuralCleanseUnlearning(detector=NeuralCleanse(reference=2), clean_share=0.5)
    alone = NeuralCleanse(reference=2).preparation()
    assert alone is not None
    assert referring.preparation() == {**alone, "clean_share": 0.5}
