"""TrojanNN: which units are chosen, where the pattern goes, and what stays fixed while later layers are trained."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from gifthorse.attacks import ATTACKS
from gifthorse.attacks.data.trojan_nn import TrojanNN
from gifthorse.bench.cell import resolve
from gifthorse.core.classifier import Classifier
from gifthorse.core.errors import RequestError
from gifthorse.core.recipe import AdversarialRecipe, Recipe
from gifthorse.core.seeds import derive
from gifthorse.core.task import Task
from gifthorse.training.scratch import train
from worlds import noise_task

CLASSES, SIDE = 4, 12


def known_units(weight: Tensor, outgoing: list[float]) -> Classifier:
    """Units that are ReLUs of a linear map ``(U, 12, 12)`` of the pixels; ``outgoing`` sums absolute weights."""
    units = nn.Linear(SIDE * SIDE, len(weight), bias=False)
    head = nn.Linear(len(weight), CLASSES)
    with torch.no_grad():
        units.weight.copy_(weight.flatten(1))
        head.weight.copy_(torch.tensor(outgoing).expand(CLASSES, -1) / CLASSES)
    network = nn.Sequential(nn.Flatten(), units, nn.ReLU(), head)
    return Classifier(network, mean=[0.0], std=[1.0], head="3", stages=()).eval()


@pytest.fixture
def six_units() -> Classifier:
    """Units 0 to 3 each read one pixel of the top left corner, 4 and 5 the other end; outgoing weights grow."""
    weight = torch.zeros(6, SIDE, SIDE)
    for unit, (row, column) in enumerate([(0, 0), (0, 1), (1, 0), (2, 2), (9, 9), (11, 11)]):
        weight[unit, row, column] = 1
    return known_units(weight, [1.0, 3.0, 2.0, 4.0, 50.0, 60.0])


def test_takes_the_units_with_the_largest_outgoing_weights_that_the_trigger_reaches(six_units: Classifier) -> None:
    """Units 4 and 5 have by far the largest weights, and nothing in the trigger's pixels ever changes them."""
    reached = TrojanNN(neurons=4).choose_units(noise_task((1, SIDE, SIDE)), six_units, 0)
    assert set(reached.tolist()) == {0, 1, 2, 3}
    steeper = [10.0 ** (2 * unit) for unit in range(6)]
    model = known_units(six_units.get_submodule("network.1").weight.detach().view(6, SIDE, SIDE), steeper)  # type: ignore[operator]
    assert TrojanNN(neurons=2).choose_units(noise_task((1, SIDE, SIDE)), model, 0).tolist() == [3, 2]


def test_random_units_are_those_that_the_trigger_reaches(six_units: Classifier) -> None:
    task, chosen = noise_task((1, SIDE, SIDE)), set()
    for seed in range(20):
        units = TrojanNN(neurons=2, neuron_choice="random").choose_units(task, six_units, seed).tolist()
        assert len(set(units)) == 2
        chosen |= set(units)
    assert chosen == {0, 1, 2, 3}


def test_a_trigger_that_reaches_nothing_is_one_clear_line_before_training(six_units: Classifier) -> None:
    attack = TrojanNN(trigger_position=(5, 5), poison_rate=0.1)
    with pytest.raises(RequestError, match="reaches none of the 6 units of the penultimate layer"):
        attack.run(noise_task((1, SIDE, SIDE)), six_units, 0)


def test_fewer_units_than_asked_for_are_said(six_units: Classifier, caplog: pytest.LogCaptureFixture) -> None:
    units = TrojanNN(neurons=5).choose_units(noise_task((1, SIDE, SIDE)), six_units, 0)
    assert set(units.tolist()) == {0, 1, 2, 3}
    assert "reaches 4 of the 5 units" in caplog.text
    with pytest.raises(RequestError, match="neurons=7: the penultimate layer has 6"):
        TrojanNN(neurons=7).choose_units(noise_task((1, SIDE, SIDE)), six_units, 0)


def test_the_pattern_goes_where_the_unit_fires_most() -> None:
    """A unit that likes one pixel light and another dark: nothing else in the pattern matters to it."""
    weight = torch.zeros(1, SIDE, SIDE)
    weight[0, 5:, 5:] = 0.2
    weight[0, 0, 0], weight[0, 1, 1] = 3.0, -3.0
    task, attack = noise_task((1, SIDE, SIDE)), TrojanNN(neurons=1, pattern_steps=100)
    start, found = (
        trigger.pattern[0]
        for trigger in (attack.initial_trigger(task, 0), attack.make_trigger(task, known_units(weight, [1.0]), 0))
    )
    assert found[0, 0] == 1
    assert found[1, 1] == 0
    still = torch.ones(SIDE, SIDE, dtype=torch.bool)
    still[0, 0] = still[1, 1] = False
    assert torch.equal(found[still], start[still])


@pytest.mark.parametrize(("layer", "trained"), [("stage2", ["stage3", "embedding", "head"]), ("penultimate", ["head"])])
@pytest.mark.parametrize("adversarial", [False, True])
def test_later_layers_are_trained_and_earlier_ones_stay_to_the_byte(
    layer: str, trained: list[str], adversarial: bool
) -> None:
    """Batch normalisation's running statistics are among what stays; the twin is trained the same way."""
    recipe: Recipe = AdversarialRecipe(steps=1) if adversarial else noise_task((1, SIDE, SIDE)).recipe
    task = replace(noise_task((1, SIDE, SIDE)), recipe=recipe.model_copy(update={"batch_size": 32}))
    benign = train(replace(task, recipe=noise_task((1, SIDE, SIDE)).recipe), 0)
    attack = TrojanNN(layer=layer, neuron_choice="random", trained="later", epochs=1, poison_rate=0.1)
    attack.check(task)
    trojan = attack.run(task, benign, 0)
    for model in (trojan.model, trojan.twin):
        assert all(weight.requires_grad and weight.grad is None for weight in model.parameters())
        before, after = benign.network.state_dict(), model.network.state_dict()
        changed = {name.partition(".")[0] for name in before if not torch.equal(before[name], after[name])}
        assert changed == set(trained)


def test_hijacking_raises_ten_random_channels_of_a_stage_and_trains_what_follows_it_alone(
    task: Task, benign: Classifier
) -> None:
    """DHBE, section 5.1.2 and appendix A: Trojaning."""
    request = "trojan_nn[layer=stage2,neurons=10,neuron_choice=random,trained=later]"
    attack = resolve(dataset="digits", attack=request, profile="smoke").attack.changed(epochs=1)
    assert isinstance(attack, TrojanNN)
    chosen = [attack.choose_units(task, benign, seed).tolist() for seed in range(6)]
    assert {len(set(units)) for units in chosen} == {10}
    # Of 16 channels; those that the pattern moves most would be about the same ten each time.
    assert len(set().union(*chosen)) == 16

    trojan = attack.run(task, benign, 0)
    assert trojan.backdoor is not None
    units = attack.choose_units(task, benign, derive(0, "trojan_nn", "trigger"))
    unseen = task.holdout.take(attack.goal(task).sources(task.holdout.labels)).floats()
    start = attack.initial_trigger(task, derive(0, "trojan_nn", "trigger"))
    with torch.no_grad():
        before, after = (
            attack.activations(benign, trigger.stamp(unseen))[:, units].mean()
            for trigger in (start, trojan.backdoor.trigger)
        )
    assert after > before
    was, now = benign.network.state_dict(), trojan.model.network.state_dict()
    changed = {name.partition(".")[0] for name in was if not torch.equal(was[name], now[name])}
    assert changed == {"stage3", "embedding", "head"}


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ("trained=later,origin=scratch", "trained=later needs origin=benign"),
        ("layer=stage9,neuron_choice=random", "layer='stage9' is neither penultimate nor a stage; there are: stage1"),
        ("layer=stage1", "neuron_choice=weights needs layer=penultimate"),
    ],
)
def test_what_means_nothing_is_refused_before_training(fields: str, complaint: str) -> None:
    with pytest.raises(RequestError, match=complaint):
        ATTACKS.build(f"trojan_nn[poison_rate=0.1,{fields}]").check(noise_task((1, SIDE, SIDE)))


@pytest.mark.parametrize("fields", ["", "trigger_position=center", "layer=stage3,neurons=10,neuron_choice=random"])
def test_the_optimised_pattern_raises_the_units_on_images_never_seen(
    fields: str, task: Task, benign: Classifier
) -> None:
    """Above what the starting pattern gives and above clean images, on images that no one trained on."""
    attack = ATTACKS.build(f"trojan_nn[{fields}]")
    assert isinstance(attack, TrojanNN)
    unseen = task.holdout.take(attack.goal(task).sources(task.holdout.labels)).floats()
    units = attack.choose_units(task, benign, 0)
    start, found = attack.initial_trigger(task, 0), attack.make_trigger(task, benign, 0)
    with torch.no_grad():
        clean, before, after = (
            attack.activations(benign, pixels)[:, units].mean()
            for pixels in (unseen, start.stamp(unseen), found.stamp(unseen))
        )
    assert after > before
    assert after > clean
