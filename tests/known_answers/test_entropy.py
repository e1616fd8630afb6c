"""The entropy of blends: by hand, as STRIP has it, and how far two distributions overlap."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from gifthorse.analyses.entropy import Entropy
from gifthorse.contracts.worlds import noise_world
from gifthorse.core.analysis import Subject
from gifthorse.core.images import Images
from gifthorse.core.trojan import Backdoor
from gifthorse.defenses.filtering.strip import Strip
from gifthorse.inversion.blending import batches_to_blend, entropy_of_blends
from gifthorse.triggers.patch import Patch
from worlds import digits_world, linear_classifier


class Brightness(nn.Module):
    """Two classes, whose logits are the mean brightness and nothing."""

    def forward(self, pixels: Tensor) -> Tensor:
        light = pixels.mean((1, 2, 3))
        return torch.stack([light, torch.zeros_like(light)], 1)


def binary(logit: float) -> float:
    p = 1 / (1 + math.exp(-logit))
    return -p * math.log(p) - (1 - p) * math.log(1 - p)


def test_the_entropy_of_blends_by_hand() -> None:
    pixels = torch.tensor([0.0, 1.0]).view(2, 1, 1, 1).expand(2, 1, 3, 3)
    overlays = torch.tensor([0.2, 1.0]).view(2, 1, 1, 1).expand(2, 1, 3, 3)
    found = entropy_of_blends(Brightness(), pixels, overlays)
    assert found.tolist() == pytest.approx([(binary(0.1) + binary(0.5)) / 2, (binary(0.6) + binary(1.0)) / 2])
    summed = entropy_of_blends(Brightness(), pixels[1:], overlays, (1.0, 1.0), clip=False)
    assert summed.item() == pytest.approx((binary(1.2) + binary(2.0)) / 2)
    assert entropy_of_blends(Brightness(), pixels[1:], overlays, (1.0, 1.0)).item() == pytest.approx(binary(1.0))
    assert torch.cat(batches_to_blend(pixels, overlays)).shape == pixels.shape


def test_strip_is_certain_where_the_entropy_is_low() -> None:
    pixels, overlays = torch.rand(4, 1, 3, 3), torch.rand(5, 1, 3, 3)
    strip = Strip(input_weight=0.7, overlay_weight=0.6, clip=False)
    expected = -entropy_of_blends(Brightness(), pixels, overlays, (0.7, 0.6), clip=False)
    torch.testing.assert_close(strip._certainty(Brightness(), pixels, overlays), expected)


def subject_of_digits() -> Subject:
    world = digits_world()
    return Subject(world.trojan.model, world.trojan.twin, world.trojan.backdoor, world.task)


def test_a_trojan_is_certain_of_stamped_blends_and_its_twin_is_not() -> None:
    found = Entropy(images=60, overlays=32).look(subject_of_digits(), 0)
    numbers = {name: float(value) for name, value in found.numbers.items()}  # type: ignore[arg-type]
    assert numbers["entropy_stamped"] < numbers["entropy_clean"] - 0.03
    assert numbers["entropy_overlap"] < numbers["entropy_overlap_twin"] - 0.1
    title = "distribution/Entropy of blends, model"
    clean, stamped = (found.evidence[f"{title}/{group} images"] for group in ("clean", "stamped"))
    assert numbers["entropy_clean"] == pytest.approx(clean.mean(), rel=1e-5)
    higher = (clean[:, None] > stamped).mean()
    assert numbers["entropy_overlap"] == pytest.approx(1 - abs(2 * higher - 1), abs=1e-6)
    assert found.numbers["entropy_clean"].n == 60  # type: ignore[union-attr]


def test_a_model_that_sees_no_trigger_gives_the_same_distribution_twice() -> None:
    subject = subject_of_digits()
    blind = subject.model.clone()
    with torch.no_grad():
        blind.head.weight.zero_()
    found = Entropy(images=20, overlays=8).look(replace(subject, model=blind), 0)
    assert found.numbers["entropy_overlap"] == pytest.approx(1)


def bright_subject() -> Subject:
    """A model to which an image is of the first class as far as it is bright; test images are white, others grey."""
    world = noise_world((1, 12, 12))
    assert world.trojan.backdoor is not None
    white, grey = (
        Images(torch.full((6, 1, 3, 3), level, dtype=torch.uint8), torch.arange(6) % 3 + 1, 4) for level in (255, 51)
    )
    weight = torch.zeros(4, 1, 3, 3)
    weight[0] = 1 / 9
    model = linear_classifier(weight, torch.tensor([0.0, 0.0, -50.0, -50.0]))
    backdoor = Backdoor(Patch(torch.zeros(1, 3, 3), torch.zeros(1, 3, 3)), world.trojan.backdoor.goal)
    return Subject(model, model, backdoor, replace(world.task, test=white, holdout=grey))


@pytest.mark.parametrize(
    ("request_", "light"),
    [
        ("entropy[overlays=6]", 0.6),
        ("entropy[overlays=1]", 0.6),
        ("entropy[overlays=6,input_weight=1.0,overlay_weight=1.0]", 1.0),
        ("entropy[overlays=6,input_weight=1.0,overlay_weight=1.0,clip=false]", 1.2),
        ("entropy[overlays=6,input_weight=0.5,overlay_weight=1.0]", 0.7),
    ],
)
def test_overlays_are_held_out_images_by_the_weights_asked_for(request_: str, light: float) -> None:
    """White images, blended with grey ones of a fifth of the light."""
    found = Entropy.parse(request_).look(bright_subject(), 0)
    assert found.numbers["entropy_clean"] == pytest.approx(binary(light), abs=1e-5)
    assert found.numbers["entropy_stamped"] == pytest.approx(binary(light), abs=1e-5)


def test_too_few_images_to_blend_with_are_said() -> None:
    subject = subject_of_digits()
    few = replace(subject, task=replace(subject.task, holdout=subject.task.holdout.take(slice(10))))
    assert Entropy().skip(few) == "blends with 64 clean images; 10 are held out"
    assert Entropy().skip(subject) is None
    assert "there is no backdoor" in (Entropy().skip(replace(subject, backdoor=None)) or "")
