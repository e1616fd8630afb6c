"""How far a trigger moves activations, success where the model is right, and what an eraser sees of its own result."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from gifthorse.core.images import Images
from gifthorse.core.outcomes import CleanModel, RecoveredTriggers
from gifthorse.metrics.attacks import judge_attack
from gifthorse.metrics.functional import restricted_success_rate
from gifthorse.metrics.judge import judge_defense
from gifthorse.metrics.reactions import COMPARED, logits_and_latents, reactions
from gifthorse.training.erased import SHOWN, erased, with_triggers
from worlds import digits_world, linear_classifier


def one_hot(*classes: int) -> Tensor:
    return torch.eye(3)[list(classes)]


def test_success_is_restricted_to_images_that_are_right_without_the_trigger() -> None:
    """DHBE 5.1.4: of four images of other classes than the target 2 one is wrong anyway; of the rest two are sent."""
    labels, targets = torch.tensor([0, 0, 1, 1, 2]), torch.full((5,), 2)
    clean, stamped = one_hot(0, 1, 1, 1, 2), one_hot(2, 2, 2, 1, 2)
    found = restricted_success_rate(stamped, clean, labels, targets)
    assert float(found) == pytest.approx(2 / 3)
    assert found.n == 3


def test_differences_are_distances_between_an_image_and_the_same_one_stamped() -> None:
    before, after = torch.zeros(4, 2), torch.tensor([[3.0, 4.0], [9.0, 9.0], [0.0, -2.0], [0.0, 0.0]])
    tried = torch.tensor([True, False, True, True])
    metrics, evidence = reactions((before, None), (after, None), tried, "defense")
    assert evidence["defense_logit_differences"].tolist() == [[7.0, 2.0, 0.0], [5.0, 2.0, 0.0]]
    assert metrics == {"defense.logit_difference": pytest.approx(7 / 3)}
    assert metrics["defense.logit_difference"].n == 3  # type: ignore[union-attr]
    assert reactions((before, None), (after, None), ~tried & tried, "defense") == ({}, {})
    long = torch.zeros(COMPARED + 5, 2)
    every = torch.ones(COMPARED + 5, dtype=torch.bool)
    assert reactions((long, long), (long, long), every, "attack")[1]["attack_latent_differences"].shape == (2, COMPARED)


def test_inner_activations_are_those_that_the_head_receives() -> None:
    model = linear_classifier(torch.randn(3, 1, 4, 4), torch.zeros(3))
    pixels = torch.rand(200, 1, 4, 4)
    logits, latents = logits_and_latents(model, pixels, "model")
    assert torch.equal(latents, pixels.flatten(1))  # type: ignore[arg-type]
    assert torch.equal(logits, model(pixels))
    behind = logits_and_latents(nn.Sequential(nn.Identity(), model), pixels, "model")
    assert torch.equal(behind[1], latents)  # type: ignore[arg-type]


def test_a_network_without_a_head_or_that_votes_has_no_inner_activations() -> None:
    class Voting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = linear_classifier(torch.randn(3, 1, 4, 4), torch.zeros(3))

        def forward(self, pixels: Tensor) -> Tensor:
            both: Tensor = self.model(pixels) + self.model(1 - pixels)
            return both

    pixels = torch.rand(5, 1, 4, 4)
    for model in (Voting(), nn.Sequential(nn.Flatten(), nn.Linear(16, 3))):
        logits, latents = logits_and_latents(model.eval(), pixels, "model")
        assert logits.shape == (5, 3)
        assert latents is None


def test_a_trigger_moves_a_trojan_further_than_its_twin() -> None:
    world = digits_world()
    trojan, task = world.trojan, world.task
    metrics, evidence = judge_attack(trojan, task, world.benign)
    clean = CleanModel(world.benign)
    after, left = judge_defense(clean, trojan, task, metrics, 0)
    for layer in ("latent", "logit"):
        name = f"{layer}_difference"
        assert float(metrics[f"attack.{name}"]) > 2 * float(after[f"defense.{name}"])  # type: ignore[arg-type]
        assert evidence[f"attack_{name}s"].shape == left[f"defense_{name}s"].shape
    assert float(metrics["attack.asr_restricted"]) >= 0.8  # type: ignore[arg-type]
    assert float(after["defense.asr_restricted"]) <= 0.2  # type: ignore[arg-type]


@pytest.fixture
def answers() -> tuple[nn.Module, nn.Module]:
    """Two models of two pixels: one goes by the brighter, one by the left alone."""
    brighter = linear_classifier(torch.tensor([[[[1.0, 0.0]]], [[[0.0, 1.0]]]]), torch.zeros(2))
    left = linear_classifier(torch.tensor([[[[1.0, 0.0]]], [[[0.0, 0.0]]]]), torch.tensor([0.0, 0.5]))
    return brighter, left


def test_an_eraser_sees_agreement_and_what_becomes_of_found_triggers(answers: tuple[nn.Module, nn.Module]) -> None:
    before, after = answers
    levels = torch.tensor([[255, 0], [0, 255], [51, 0], [102, 204]], dtype=torch.uint8).view(4, 1, 1, 2)
    given = Images(levels, torch.tensor([0, 1, 0, 1]), 2)
    samples = torch.tensor([[0.2, 0.9], [0.8, 0.9], [1.5, 2.0]]).view(3, 1, 1, 2)
    # The right pixel lit: the first model names class 1, the second looks at the left one.
    mask, pattern = torch.zeros(2, 1, 1, 2), torch.ones(2, 1, 1, 2)
    mask[1, 0, 0, 1] = 1
    triggered = with_triggers(RecoveredTriggers(mask, pattern), [1], given)
    assert triggered[1].tolist() == [1, 1]
    found = erased(before, after, given, samples=samples, triggered=triggered)  # type: ignore[arg-type]
    assert found.model is after
    assert found.findings == {
        "agreement": 3 / 4,
        "agreement_on_samples": pytest.approx(1 / 3),
        "found_asr_before": 0.5,
        "found_asr_after": 0.5,
    }
    assert found.samples is not None
    assert found.samples.max() == 1
    assert erased(before, after, samples=samples.repeat(9, 1, 1, 1)).samples.shape[0] == SHOWN  # type: ignore[arg-type, union-attr]
    assert erased(before, after).findings == {}  # type: ignore[arg-type]


def test_several_found_triggers_take_turns_on_the_images_of_other_classes() -> None:
    given = Images(torch.zeros(8, 1, 1, 2, dtype=torch.uint8), torch.tensor([0, 0, 0, 1, 1, 0, 1, 0]), 2)
    mask, pattern = torch.zeros(2, 1, 1, 2), torch.ones(2, 1, 1, 2)
    mask[0, ..., 0], mask[1, ..., 1] = 1, 1
    stamped, wanted = with_triggers(RecoveredTriggers(mask, pattern), [0, 1], given)
    # Those at even places are for class 0, and two are of class 1; of the others, for class 1, three are of 0.
    assert wanted.tolist() == [0, 0, 1, 1, 1]
    assert stamped.flatten(1).tolist() == [[1, 0], [1, 0], [0, 1], [0, 1], [0, 1]]


def test_findings_and_samples_are_in_the_record() -> None:
    world = digits_world()
    samples = torch.full((3, *world.task.test.shape), 0.5)
    before, _ = judge_attack(world.trojan, world.task, world.benign)
    given = CleanModel(world.benign, findings={"agreement": 0.75}, samples=samples)
    metrics, evidence = judge_defense(given, world.trojan, world.task, before, 0)
    assert metrics["defense.agreement"] == 0.75
    assert evidence["samples"].shape == samples.shape
    assert "samples" not in judge_defense(replace(given, samples=None), world.trojan, world.task, before, 0)[1]
