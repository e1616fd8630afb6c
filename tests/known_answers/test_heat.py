"""Where answers come from with a trigger and without, where it is known."""

from collections import OrderedDict

import pytest
import torch
from torch import Tensor, nn

from gifthorse.core.classifier import Classifier
from gifthorse.core.images import Images
from gifthorse.metrics.attacks import judge_attack
from gifthorse.metrics.functional import Counted
from gifthorse.metrics.heat import COMPARED, heat_differences, heat_pictures
from worlds import digits_world, linear_classifier


def pixel_shower(*slopes: float) -> Classifier:
    """A model whose one map is the image, and whose logits are its mean times ``slopes``."""
    passing, head = nn.Conv2d(1, 1, 1, bias=False), nn.Linear(1, len(slopes), bias=False)
    with torch.no_grad():
        passing.weight.fill_(1)
        head.weight.copy_(torch.tensor(slopes).unsqueeze(1))
    pool: list[tuple[str, nn.Module]] = [("pool", nn.AdaptiveAvgPool2d(1)), ("flatten", nn.Flatten())]
    network = nn.Sequential(OrderedDict([("maps", passing), *pool, ("head", head)]))
    return Classifier(network, mean=[0.0], std=[1.0], head="head", stages=("maps",)).eval()


def pairs() -> tuple[Images, Tensor, Tensor]:
    """Three images of 2×2 pixels with one white pixel, and with another one stamped; the last is of the target."""
    clean = torch.zeros(3, 1, 2, 2, dtype=torch.uint8)
    clean[:, :, 0, 0] = 102
    stamped = clean / 255
    stamped[:, :, 1, 1] = 0.8
    stamped[2] = 1 - stamped[2]
    return Images(clean, torch.tensor([0, 0, 1]), 2), stamped, torch.tensor([1, 1, 1])


def test_the_distance_is_the_mean_over_pixels_of_each_class_on_each_model() -> None:
    """Heat is light over the largest: (1 0 0 0) before and (0.5 0 0 1) after, on average 1.5 / 4 apart."""
    models = {"attack": pixel_shower(1.0, 2.0), "benign": pixel_shower(1.0, -1.0)}
    found = heat_differences(models, *pairs())
    assert found == {
        "attack.heat_difference_label": pytest.approx(0.375),
        "attack.heat_difference_target": pytest.approx(0.375),
        "benign.heat_difference_label": pytest.approx(0.375),
        "benign.heat_difference_target": 0.0,
    }
    assert all(isinstance(each, Counted) and each.n == 2 for each in found.values())


def test_maps_of_what_has_no_stages_and_of_no_images_are_not_compared() -> None:
    clean, stamped, _ = pairs()
    flat = linear_classifier(torch.ones(2, 1, 2, 2), torch.zeros(2))
    assert heat_differences({"attack": flat}, *pairs()) == {}
    assert heat_differences({"attack": pixel_shower(1.0, 2.0)}, clean, stamped, clean.labels) == {}
    assert heat_pictures(flat, clean_heat=stamped) == {}


def test_pictures_show_what_the_answer_comes_from() -> None:
    clean, stamped, _ = pairs()
    found = heat_pictures(pixel_shower(1.0, 2.0), clean_heat=clean.floats(), stamped_heat=stamped[:2])
    assert found["clean_heat"].tolist() == [[[[255, 0], [0, 0]]]] * 3
    assert found["stamped_heat"].tolist() == [[[[128, 0], [0, 255]]]] * 2


def test_a_trigger_moves_the_maps_of_the_target_on_a_trojan_further_than_on_its_twin() -> None:
    """TrojanZoo, Table 19. Measured by the smoke profile: 0.25 on the trojan and 0.08 on its twin."""
    world = digits_world()
    metrics, evidence = judge_attack(world.trojan, world.task, world.benign)
    on_trojan, on_twin = (metrics[f"{scope}.heat_difference_target"] for scope in ("attack", "benign"))
    assert isinstance(on_trojan, Counted)
    assert isinstance(on_twin, Counted)
    assert on_trojan.n == COMPARED
    assert on_trojan > 1.5 * on_twin
    for name in ("clean", "stamped"):
        pictures = evidence[name]
        assert evidence[f"{name}_heat"].shape == (len(pictures), 1, *pictures.shape[2:])
