"""Models of all triggers of a class, their detection and their unlearning, in worlds where it is known what works."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from gifthorse.core.classifier import Classifier, predict
from gifthorse.core.errors import NotApplicableError
from gifthorse.core.images import Images
from gifthorse.core.outcomes import CleanModel, ModelVerdict, RecoveredTriggers
from gifthorse.core.views import KnownClassView, ModelView
from gifthorse.defenses import DEFENSES
from gifthorse.defenses.combination.pipeline import Pipeline
from gifthorse.defenses.inspection import mesa
from gifthorse.defenses.inspection.mesa import Mesa, most_successful
from gifthorse.defenses.sanitization.gdm import Gdm
from gifthorse.defenses.sanitization.neural_cleanse_unlearning import NeuralCleanseUnlearning
from gifthorse.inversion import trigger_distribution
from gifthorse.inversion.inspector import hold_out
from gifthorse.inversion.trigger_distribution import (
    DRAWN,
    PLACES,
    Generators,
    Statistics,
    TriggerModelling,
    carriers,
    donsker_varadhan,
    paste,
    random_place,
    staircase,
    success_rates,
)
from gifthorse.training.loop import Batch
from worlds import linear_classifier, live_pixel_view, scores_of

TARGET = 2
SETTINGS = Gdm(
    trigger_size=2,
    generator_steps=150,
    generator_batch_size=16,
    generator_lr=5e-3,
    noise=8,
    hidden=32,
    deviation=0.05,
    epochs=20,
    schedule="constant",
    samples=0,
    batch_size=32,
    lr=0.3,
    stamped=0.3,
)
MESA = Mesa(**{name: getattr(SETTINGS, name) for name in TriggerModelling.model_fields})


class BrightSquare(nn.Module):
    """Anything with a white square of 2×2, wherever it is, is of the target; else the row that is lit tells.

    What the head makes of the brightest square is learnt, and can be unlearnt.
    """

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(7, 6, bias=False)
        with torch.no_grad():
            self.head.weight.zero_()
            self.head.weight[:, :6] = 6 * torch.eye(6)
            self.head.weight[TARGET, 6] = 1.5

    def forward(self, pixels: Tensor) -> Tensor:
        squares = functional.avg_pool2d(pixels, 2, stride=1).flatten(1).amax(1, keepdim=True)
        rows = pixels[:, 0, :6].mean(2)
        logits: Tensor = self.head(torch.cat([rows, 10 * functional.relu(squares - 0.45)], 1))
        return logits


def view() -> ModelView:
    """Rows of grey light, nowhere bright enough."""
    random = torch.Generator().manual_seed(0)
    labels = torch.arange(120) % 6
    pixels = torch.randint(0, 40, (120, 1, 8, 8), generator=random, dtype=torch.uint8)
    pixels[torch.arange(120), 0, labels] += 120
    model = Classifier(BrightSquare(), mean=[0.0], std=[1.0], head="head", stages=()).eval()
    return ModelView(model, Images(pixels, labels, 6))


def obeying(model: nn.Module, images: Images) -> float:
    others = images.take(images.labels != TARGET)
    white = paste(others.floats(), torch.ones(len(others), 1, 2, 2), (4, 5))
    return float((predict(model, white).argmax(1) == TARGET).float().mean())


def accuracy(model: nn.Module, images: Images) -> float:
    return float((predict(model, images).argmax(1) == images.labels).float().mean())


def test_confidence_above_beta_is_worth_no_more() -> None:
    confidence = torch.tensor([[0.2, 0.9], [0.6, 0.4]], requires_grad=True)
    found = staircase(confidence, torch.tensor([0.5, 0.8]))
    assert torch.allclose(found, torch.tensor([-0.35, -0.5]))
    found.sum().backward()
    assert confidence.grad is not None
    assert torch.equal(confidence.grad, torch.tensor([[-0.5, 0.0], [-0.5, -0.5]]))


def test_the_bound_is_donskers_and_varadhans() -> None:
    together, apart = torch.tensor([[1.0, 2.0]]), torch.tensor([[0.5, -1.0]])
    by_hand = 1.5 - math.log((math.exp(0.5) + math.exp(-1.0)) / 2)
    assert float(donsker_varadhan(together, apart)) == pytest.approx(by_hand)
    assert float(donsker_varadhan(torch.full((1, 5), 3.0), torch.full((1, 5), 3.0))) == pytest.approx(0)


def test_the_estimator_tells_what_depends_on_the_noise_from_what_does_not() -> None:
    random = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    statistics = Statistics(2, 4, 32, 4)
    optimizer = torch.optim.Adam(statistics.parameters(), 5e-3)
    for _ in range(100):
        noise, other, unrelated = torch.rand(3, 2, 64, 4, generator=random)
        triggers = torch.stack([noise[0], unrelated[1]])
        bound = statistics.information(noise, other, triggers)
        optimizer.zero_grad()
        (-bound.sum()).backward()
        optimizer.step()
    depends, does_not = bound.tolist()
    assert depends > 0.7
    assert abs(does_not) < 0.3


def test_candidates_share_nothing() -> None:
    """One generator's gradients and triggers are what they would be alone, its batch statistics as well."""
    torch.manual_seed(0)
    makers, noise = Generators(2, 8, 16, 4), torch.rand(2, 10, 8)
    before = makers(noise)
    before[0].sum().backward()
    assert all(not weight.grad[1].any() for name, weight in makers.named_parameters() if "norms" not in name)  # type: ignore[index]
    moved = noise.clone()
    moved[1] = 1 - moved[1]
    after = makers(moved)
    assert torch.equal(after[0], before[0])
    assert not torch.allclose(after[1], before[1])


def test_a_generator_sees_all_of_its_noise() -> None:
    torch.manual_seed(0)
    makers, noise = Generators(1, 8, 16, 4), torch.rand(1, 10, 8, requires_grad=True)
    makers(noise).square().sum().backward()
    assert noise.grad is not None
    assert (noise.grad.abs().sum((0, 1)) > 0).all()


def test_a_trigger_takes_the_place_of_what_was_there() -> None:
    pixels, triggers = torch.rand(3, 2, 6, 7), torch.rand(3, 2, 2, 2)
    stamped = paste(pixels, triggers, (1, 4))
    assert torch.equal(stamped[:, :, 1:3, 4:6], triggers)
    stamped[:, :, 1:3, 4:6] = pixels[:, :, 1:3, 4:6]
    assert torch.equal(stamped, pixels)
    random = torch.Generator().manual_seed(0)
    places = {random_place((2, 6, 7), 2, random) for _ in range(600)}
    assert places == {(row, column) for row in range(5) for column in range(6)}


def test_what_is_modelled_works_anywhere_and_only_for_the_class_that_has_triggers() -> None:
    given, every = view(), torch.arange(6)
    before = [each.clone() for each in given.model.state_dict().values()]
    triggers = SETTINGS.model_triggers(given.model, given.clean, range(6), [0.9], 0)
    assert triggers.shape == (6, DRAWN, 1, 2, 2)
    assert 0 <= float(triggers.min()) <= float(triggers.max()) <= 1
    rates = success_rates(given.model, triggers, every, given.clean, 0)
    assert float(rates[TARGET]) > 0.9
    assert float(rates[every != TARGET].max()) < 0.2
    assert all(torch.equal(a, b) for a, b in zip(given.model.state_dict().values(), before, strict=True))
    assert all(weight.grad is None and weight.requires_grad for weight in given.model.parameters())


def test_mutual_information_spreads_the_triggers() -> None:
    """Without it they are all alike, as far as their noise lets them."""
    given = view()

    def spread(alpha: float) -> float:
        settings = SETTINGS.changed(alpha=alpha, deviation=0.0)
        return float(settings.model_triggers(given.model, given.clean, [TARGET], [0.9], 0).std(1).mean())

    assert spread(1.0) > 2 * spread(0.0)


def test_success_is_counted_over_images_of_other_classes() -> None:
    given, every = view(), torch.tensor([TARGET, 0])
    white = torch.ones(2, 40, 1, 2, 2)
    assert success_rates(given.model, white, every, given.clean, 0).tolist() == [1, 0]
    assert success_rates(given.model, white * 0.5, every, given.clean, 0).tolist() == [0, 0]
    half = white.clone()
    half[:, 1::2] = 0.5
    mixed = success_rates(given.model, half, every, given.clean.take(given.clean.labels != 5), 0)
    assert float(mixed[0]) == pytest.approx(0.5)
    own = given.clean.take(given.clean.labels == TARGET)
    assert success_rates(given.model, white[:1], every[:1], own, 0).tolist() == [0]


@pytest.mark.parametrize("known", [False, True])
def test_the_triggers_of_the_attacked_class_are_unlearnt(known: bool) -> None:
    given = view()
    settings = SETTINGS.changed(target_known=known)
    assert settings.sees() is (KnownClassView if known else ModelView)
    shown = KnownClassView(given.model, given.clean, (TARGET,)) if known else given
    assert obeying(given.model, given.clean) == 1
    cleaned = settings.defend(shown, 0).model
    assert obeying(cleaned, given.clean) < 0.1
    assert accuracy(cleaned, given.clean) > 0.95
    plain = SETTINGS.changed(stamped=0.0).defend(given, 0).model
    assert obeying(plain, given.clean) == 1, "tuning alone leaves it"


def test_whoever_knows_the_class_searches_for_none(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[tuple[int, ...], tuple[float, ...]]] = []

    def noted(_: object, __: object, ___: object, classes: range, betas: tuple[float, ...], ____: int) -> Tensor:
        asked.append((tuple(classes), tuple(betas)))
        return torch.ones(len(classes) * len(betas), 8, 1, 2, 2)

    monkeypatch.setattr(Gdm, "model_triggers", noted)
    given, settings = view(), SETTINGS.changed(epochs=1)
    settings.changed(target_known=True).defend(KnownClassView(given.model, given.clean, (1, TARGET)), 0)
    settings.defend(given, 0)
    every = tuple(range(6))
    assert asked == [((1, TARGET), (0.5, 0.8, 0.9)), (every, (0.9,)), ((TARGET,), (0.5, 0.8, 0.9))]
    asked.clear()
    settings.defend(replace(given, verdict=ModelVerdict(torch.arange(6.0), 5)), 0)
    settings.defend(replace(given, verdict=ModelVerdict(torch.arange(6.0), None)), 0)
    assert asked == [((5,), (0.5, 0.8, 0.9))], "behind a detector it is its suspect, if any"


def test_where_nothing_works_the_model_stays_as_it_was() -> None:
    given = view()
    with torch.no_grad():
        given.model.head.weight[:, 6] = 0
    same = SETTINGS.defend(given, 0).model
    assert all(torch.equal(a, b) for a, b in zip(same.parameters(), given.model.parameters(), strict=True))


def test_each_sample_carries_a_trigger_with_its_probability_and_keeps_its_label() -> None:
    triggers = torch.stack([torch.full((1, 2, 2), 0.25), torch.full((1, 2, 2), 0.75)])
    mix = SETTINGS.changed(stamped=0.1).unlearning(triggers, 0)
    batch, counts, values = Batch(torch.zeros(100, 1, 8, 8), torch.arange(100) % 6), [], set[float]()
    for _ in range(50):
        mixed = mix(batch)
        shown = mixed.pixels.flatten(1)
        assert torch.equal(mixed.labels, batch.labels)
        counts.append(int((shown > 0).any(1).sum()))
        assert set((shown > 0).sum(1).tolist()) <= {0, 4}
        values |= set(shown.unique().tolist())
    assert 8 < sum(counts) / 50 < 12
    assert len(set(counts)) > 3
    assert values == {0.0, 0.25, 0.75}
    assert not batch.pixels.any()


def test_a_trigger_larger_than_the_images_is_refused() -> None:
    assert SETTINGS.changed(trigger_size=8).skip(view()) is None
    assert SETTINGS.changed(trigger_size=9).skip(view()) == "a trigger of 9×9 does not fit into images of 1×8×8"


def drawing(monkeypatch: pytest.MonkeyPatch, triggers: Tensor) -> list[tuple[tuple[int, ...], tuple[float, ...]]]:
    """Let every class's distribution be ``triggers (P, C, size, size)``; returns what is asked for."""
    asked: list[tuple[tuple[int, ...], tuple[float, ...]]] = []

    def model_triggers(
        _: object, __: object, ___: object, classes: range, betas: tuple[float, ...], ____: int
    ) -> Tensor:
        asked.append((tuple(classes), tuple(betas)))
        return triggers.expand(len(classes) * len(betas), *triggers.shape)

    monkeypatch.setattr(Mesa, "model_triggers", model_triggers)
    return asked


def test_the_class_that_has_triggers_is_suspect_and_no_other_has_any() -> None:
    given = view()
    verdict = MESA.defend(given, 0)
    scores, others = scores_of(verdict), torch.arange(6) != TARGET
    assert verdict.suspect == TARGET
    assert verdict.flagged
    assert float(scores[TARGET]) > 0.9
    assert float(scores[others].max()) < 0.2
    assert verdict.index == float(scores[TARGET])


def test_where_nothing_works_nothing_is_suspect() -> None:
    given = view()
    with torch.no_grad():
        given.model.head.weight[:, 6] = 0
    verdict = MESA.defend(given, 0)
    assert (verdict.suspect, verdict.flagged) == (None, False)
    assert verdict.index < 0.2
    assert verdict.readouts["placed"] < 0.2


def test_the_score_is_the_share_of_held_out_images_that_the_distribution_reaches(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of these triggers every other one works, anywhere: no more than half of the images is not enough."""
    triggers = torch.ones(64, 1, 2, 2)
    triggers[1::2] = 0.3
    asked = drawing(monkeypatch, triggers)
    verdict = MESA.defend(view(), 0)
    assert asked == [(tuple(range(6)), (0.9,))]
    scores = scores_of(verdict)
    assert float(scores[TARGET]) == pytest.approx(0.5, abs=0.05)
    assert scores.sum() == scores[TARGET]
    barely, not_quite = float(scores[TARGET]) - 1e-3, float(scores[TARGET])
    assert MESA.changed(success=barely).defend(view(), 0).suspect == TARGET
    assert MESA.changed(success=not_quite).defend(view(), 0).suspect is None
    assert verdict.triggers is not None
    assert verdict.triggers.success is not None
    assert verdict.triggers.success.tolist() == [float(label == TARGET) for label in range(6)], (
        "one that works is shown"
    )


def test_what_is_shown_is_one_square_for_each_class_and_what_is_stamped() -> None:
    given = view()
    shown = MESA.defend(given, 0).triggers
    assert shown is not None
    assert (shown.mask.shape, shown.pattern.shape) == ((6, 1, 8, 8), (6, 1, 8, 8))
    assert shown.mask.sum((1, 2, 3)).tolist() == [4.0] * 6
    for mask in shown.mask[:, 0]:
        rows, columns = mask.any(1).nonzero().flatten(), mask.any(0).nonzero().flatten()
        assert (len(rows), len(columns)) == (2, 2)
        assert (rows[1] - rows[0], columns[1] - columns[0]) == (1, 1)
    assert not shown.pattern[(shown.mask == 0)].any()
    others = given.clean.take(given.clean.labels != TARGET)
    reached = predict(given.model, shown.stamp(others.floats(), TARGET)).argmax(1) == TARGET
    assert reached.float().mean() > 0.95
    assert shown.held_out is not None
    assert int(shown.held_out.sum()) == 5 * 24, "a fifth of 120 images, and each of it is of five other classes"


def test_it_is_shown_at_the_place_where_it_works(monkeypatch: pytest.MonkeyPatch) -> None:
    """One pixel decides: a distribution that is tried anywhere hits it seldom, which is read out and not flagged."""
    drawing(monkeypatch, torch.ones(64, 1, 2, 2))
    verdict = MESA.defend(live_pixel_view(1, 7, 4), 0)
    assert verdict.suspect is None
    assert verdict.index < 0.2
    assert verdict.readouts == {"placed": 1.0}
    assert verdict.triggers is not None
    assert verdict.triggers.mask[1, 0, 7, 4] == 1


def test_classes_are_scored_on_the_images_held_out_and_what_is_shown_is_chosen_on_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given, seen = view(), list[Images]()

    def watched(model: Classifier, triggers: Tensor, images: Images, seed: int) -> RecoveredTriggers:
        seen.append(images)
        return most_successful(model, triggers, images, seed)

    def scored(model: Classifier, triggers: Tensor, targets: Tensor, images: Images, seed: int) -> Tensor:
        seen.append(images)
        return success_rates(model, triggers, targets, images, seed)

    monkeypatch.setattr(mesa, "most_successful", watched)
    monkeypatch.setattr(trigger_distribution, "success_rates", scored)
    drawing(monkeypatch, torch.ones(64, 1, 2, 2))
    MESA.defend(given, 0)
    searched, held_out = hold_out(given.clean, 0)
    assert torch.equal(seen[0].pixels, held_out.pixels)
    assert torch.equal(seen[1].pixels, searched.pixels)


@pytest.mark.parametrize(
    "eraser", [SETTINGS, NeuralCleanseUnlearning(epochs=20, schedule="constant", samples=0, lr=0.3)]
)
def test_what_it_found_is_unlearnt_by_what_comes_behind_it(eraser: Gdm | NeuralCleanseUnlearning) -> None:
    """An eraser behind a detector goes by its verdict; where that suspects nothing, it leaves the model."""
    given = view()
    behind = Pipeline(defenses=(MESA, eraser))
    found = behind.defend(given, 0)
    assert isinstance(found, CleanModel)
    assert obeying(given.model, given.clean) == 1
    assert obeying(found.model, given.clean) < 0.1
    assert accuracy(found.model, given.clean) > 0.95
    blind = Pipeline(defenses=(MESA.changed(success=1.0), eraser)).defend(given, 0)
    assert isinstance(blind, CleanModel)
    assert obeying(blind.model, given.clean) == 1


def test_the_bracket_strings_mean_what_they_say() -> None:
    assert DEFENSES.build("max_entropy_staircase_approximator") == DEFENSES.build("mesa") == Mesa()
    assert DEFENSES.build("generative_distribution_modeling") == Gdm()
    assert DEFENSES.build("pipeline[defenses=[mesa,gdm]]") == Pipeline(defenses=(Mesa(), Gdm()))


def with_classes(count: int) -> ModelView:
    labels = torch.arange(40) % count
    model = linear_classifier(torch.zeros(count, 1, 8, 8), torch.zeros(count))
    return ModelView(model, Images(torch.zeros(40, 1, 8, 8, dtype=torch.uint8), labels, count))


@pytest.mark.parametrize("defense", [MESA, SETTINGS], ids=["mesa", "gdm"])
def test_a_model_of_one_class_is_refused_with_a_sentence_and_two_are_enough(defense: Mesa | Gdm) -> None:
    refused = defense.skip(with_classes(1))
    assert refused == "the model has one class: there is no other whose images a trigger could send to it"
    assert defense.skip(with_classes(2)) is None
    short = defense.changed(generator_steps=2)
    assert isinstance(short.defend(with_classes(2), 0), ModelVerdict | CleanModel)


def test_what_it_cannot_be_applied_to_is_refused_with_a_sentence() -> None:
    given = view()
    assert MESA.skip(given) is None
    assert MESA.changed(trigger_size=9).skip(given) == "a trigger of 9×9 does not fit into images of 1×8×8"
    assert MESA.skip(replace(given, clean=given.clean.take(slice(1)))) == (
        "needs clean images, some of them to be held out; there are 1"
    )
    nan = linear_classifier(torch.full((6, 1, 8, 8), torch.nan), torch.zeros(6))
    assert MESA.skip(ModelView(nan, given.clean)) == "the model's outputs on the images are not finite numbers"
    with pytest.raises(NotApplicableError, match="mesa: a trigger of 9×9 does not fit"):
        Pipeline(defenses=(MESA.changed(trigger_size=9), SETTINGS)).defend(given, 0)


def test_clean_images_of_one_class_have_no_others_to_try_a_trigger_on() -> None:
    given = view()
    alone = replace(given, clean=given.clean.take(given.clean.labels == TARGET))
    short = MESA.changed(generator_steps=2)
    verdict = short.defend(alone, 0)
    assert scores_of(verdict)[TARGET] == 0
    assert scores_of(verdict).isfinite().all()


def test_carriers_are_images_of_other_classes_with_triggers_of_their_own() -> None:
    grey = Images(
        torch.arange(60, dtype=torch.uint8).view(60, 1, 1, 1).repeat(1, 1, 8, 8), torch.arange(60) // 2 % 6, 6
    )
    triggers = torch.stack([torch.arange(300) + 1000.0, torch.arange(300) + 2000.0]).view(2, 300, 1, 1, 1)
    pixels, wanted = carriers(triggers.expand(-1, -1, -1, 2, 2), [TARGET, 4], grey, 0)
    assert wanted.tolist() == [TARGET] * 25 + [4] * 25
    for start, label, part in zip((1000, 2000), (TARGET, 4), pixels.split(25), strict=True):
        shown = part.flatten(1).sort(1).values
        assert (shown[:, -4:] >= 1000).all()
        assert sorted(shown[:, -1].tolist()) == [start + 12 * image for image in range(25)], (
            "evenly of all that are drawn"
        )
        image = (shown[:, 0] * 255).round().long()
        assert (image % 2 == int(label == 4)).all(), "the classes share the images"
        labels = grey.labels[image]
        assert torch.equal(labels.bincount(minlength=6) == 0, torch.arange(6) == label)
        places = {int(carrier.flatten().ge(1000).nonzero()[0]) for carrier in part}
        assert 3 <= len(places) <= PLACES


def test_what_becomes_of_the_triggers_is_told_where_there_are_any() -> None:
    given = view()
    found = SETTINGS.defend(given, 0).findings
    assert found.keys() == {"agreement", "found_asr_before", "found_asr_after"}
    assert found["agreement"] > 0.95
    assert found["found_asr_before"] > 0.9
    assert found["found_asr_after"] < 0.1
    behind = SETTINGS.defend(replace(given, verdict=ModelVerdict(torch.arange(6.0), None)), 0)
    assert behind.findings == {"agreement": 1.0}
