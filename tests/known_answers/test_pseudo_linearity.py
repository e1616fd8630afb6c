"""Shifts of features and of heads: exact where the head is linear, and groups that are what they should be."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from gifthorse.analyses.pseudo_linearity import ENOUGH, Groups, Half, PseudoLinearity
from gifthorse.core.analysis import Subject
from gifthorse.core.errors import NotApplicableError, RequestError
from gifthorse.core.images import Images
from gifthorse.core.progress import listening
from gifthorse.metrics.functional import correlation, linear_prediction
from gifthorse.models.small_cnn import SmallCnn
from gifthorse.training import transfer as transfer_module
from gifthorse.training.heads import HEADS, FittedHead, OneLayer, ScikitHead, TwoLayers
from gifthorse.training.transfer import cache_features, fitted, transfer
from worlds import digits_world


def subject_of_digits() -> Subject:
    world = digits_world()
    return Subject(world.trojan.model, world.trojan.twin, world.trojan.backdoor, world.task)


class Sines(nn.Module):
    """Sines that turn many times over the features."""

    lines: Tensor

    def __init__(self, units: int, classes: int, turns: float = 30):
        super().__init__()
        self.register_buffer("lines", turns * torch.randn(units, classes, generator=torch.Generator().manual_seed(0)))

    def forward(self, features: Tensor) -> Tensor:
        waves: Tensor = (features @ self.lines).sin()
        return waves


class Waves(ScikitHead):
    """A head that is nothing but sines."""

    name = "waves"

    def build(self, features: Tensor, labels: Tensor, classes: int, seed: int) -> nn.Module:
        return Sines(features.shape[1], classes)


def test_a_linear_head_is_predicted_exactly_and_a_strongly_curved_one_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer_module, "FittedHead", (FittedHead, Sines))  # neither is trained by gradients
    heads = (OneLayer(epochs=2), TwoLayers(epochs=2), Waves())
    found = PseudoLinearity(heads=heads, train_images=300).look(subject_of_digits(), 0).numbers
    correlations = found["pseudo_linearity"]
    assert isinstance(correlations, list)
    assert correlations[0] == pytest.approx(1, abs=1e-5)
    assert 0.8 < correlations[1] < 1 - 1e-5
    assert abs(correlations[2]) < 0.15
    assert found["pseudo_linearity_mean"] == pytest.approx(sum(correlations) / 3)


@pytest.mark.parametrize("units", [64, 1024])
def test_what_no_linear_map_explains_stays_unexplained_however_many_units_there_are(units: int) -> None:
    """Outputs that turn with the least of a feature are noise; so many units would explain them on images they saw."""
    subject = subject_of_digits()
    model, test = SmallCnn(width=4, embedding=units).build((1, 16, 16), 10, 0).eval(), subject.task.test
    halves = [Half(subject, test.take(part), model, 2 * units, 5, 0) for part in (slice(200), slice(200, None))]
    noise, linear = Sines(units, 10, 30_000), nn.Linear(units, 10)
    for head, least, most in ((noise, -0.1, 0.1), (linear, 0.9, 1.0)):
        (moved, shifts), (asked, true) = ((each.moved, each.shifts_of(head)) for each in halves)
        assert least < correlation(linear_prediction(moved, shifts, asked).flatten(), true.flatten()) < most + 1e-9


def test_of_fewer_images_than_a_linear_map_needs_nothing_is_said() -> None:
    subject = subject_of_digits()
    half = Half(subject, subject.task.test.take(slice(200)), subject.model, 40, 5, 0)
    half.require_enough()
    half._images = ENOUGH * int((half.moved != 0).any(0).sum()) - 1
    with pytest.raises(NotApplicableError, match=r"a linear map of \d+ units needs at least \d+ images"):
        half.require_enough()
    wide = SmallCnn(width=4, embedding=1024).build((1, 16, 16), 10, 0)
    with pytest.raises(NotApplicableError, match=r"half of the test images that it may use are 3[78]\d"):
        PseudoLinearity(heads=("bayes",)).look(replace(subject, model=wide), 0)  # type: ignore[arg-type]


def test_a_linear_map_is_recovered_from_shifts_that_leave_a_unit_out() -> None:
    random = torch.Generator().manual_seed(0)
    shifts = torch.randn(50, 6, generator=random)
    shifts[:, 2] = 0  # a unit that never moves
    mapped = shifts @ torch.randn(6, 3, generator=random)
    predicted = linear_prediction(shifts[:30], mapped[:30], shifts[30:])
    torch.testing.assert_close(predicted.float(), mapped[30:], atol=1e-5, rtol=1e-5)
    assert correlation(predicted.flatten(), mapped[30:].flatten()) == pytest.approx(1)
    assert correlation(-predicted.flatten(), mapped[30:].flatten()) == pytest.approx(-1)


def test_the_correlation_is_pearsons() -> None:
    first, second = torch.rand(4, 5), torch.rand(4, 5)
    expected = torch.stack([first.flatten(), second.flatten()]).corrcoef()[0, 1].item()
    assert correlation(first.flatten(), second.flatten()) == pytest.approx(expected, abs=1e-6)
    assert correlation(first.flatten(), torch.ones(20)).isnan()


def test_groups_are_of_two_classes_and_of_pairs() -> None:
    labels = torch.tensor([2, 0, 0, 4, 2, 4, 4, 0])
    groups = Groups(labels, 5, 200, 3, 0)
    first, second = labels[groups._first], labels[groups._second]
    assert all((each == each[:, :1]).all() for each in (first, second))
    assert (first[:, 0] != second[:, 0]).all()
    assert set(zip(first[:, 0].tolist(), second[:, 0].tolist(), strict=True)) == {
        (a, b) for a in (0, 2, 4) for b in (0, 2, 4) if a != b
    }
    assert len(groups._first.unique()) == 8
    plain, stamped, clean = torch.rand(5, 2), torch.rand(5, 2), torch.rand(8, 2)
    shifts = groups.shifts(clean, plain, stamped)
    torch.testing.assert_close(shifts[0], clean[groups._second[0]].mean(0) - clean[groups._first[0]].mean(0))
    pair = groups._pairs[7]
    torch.testing.assert_close(shifts[207], stamped[pair].mean(0) - plain[pair].mean(0))


def test_a_head_is_the_one_that_a_downstream_user_gets() -> None:
    subject = subject_of_digits()
    model, few = subject.model, subject.task.train.take(slice(200))
    for request in ("fcn1[epochs=1]", "bayes"):
        head = HEADS.build(request)
        module = fitted(head, cache_features(model.clone(), few), few, subject.task.recipe, 3)
        whole = transfer(model, head, few, subject.task.recipe, 3)
        test = subject.task.test.take(slice(20))
        torch.testing.assert_close(module(cache_features(model.clone(), test)), whole(test.floats()))


def test_heads_that_move_the_features_or_have_no_image_are_refused() -> None:
    with pytest.raises(RequestError, match="features stay as they are, so fcn1 takes tuning=partial only"):
        PseudoLinearity.parse("pseudo_linearity[heads=[fcn1[tuning=full]]]")
    subject = subject_of_digits()
    few = PseudoLinearity.parse("pseudo_linearity[heads=[bayes[share=0.01]],train_images=10]")
    with pytest.raises(RequestError, match=r"bayes: share=0\.01 selects none of 10 training images"):
        few.check(subject.model, subject.task)


def test_where_there_is_no_other_class_it_says_so() -> None:
    subject = subject_of_digits()
    of_one = subject.task.test.take(subject.task.test.labels == 3)
    subject = replace(subject, task=replace(subject.task, test=Images(of_one.pixels, of_one.labels, 10)))
    with pytest.raises(NotApplicableError, match="all test images are of one"):
        PseudoLinearity(heads=("bayes",)).look(subject, 0)  # type: ignore[arg-type]


def test_it_tells_how_far_it_is() -> None:
    told: list[tuple[str, int, int]] = []
    with listening(lambda *said: told.append(said)):
        PseudoLinearity(heads=("bayes", "fcn1[epochs=1]"), train_images=100).look(subject_of_digits(), 0)  # type: ignore[arg-type]
    assert [said[1:] for said in told if said[0] == "pseudo-linearity"] == [(0, 2), (1, 2), (2, 2)]
