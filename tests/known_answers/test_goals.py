"""Conditions and goals: which class each stamped image should get, and what the judge makes of it."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from gifthorse.attacks import ATTACKS
from gifthorse.bench.cell import resolve
from gifthorse.core.classifier import Classifier
from gifthorse.core.errors import RequestError
from gifthorse.core.goal import GOALS, AllToAll, AllToOne, OnePerCondition, SourceSpecific
from gifthorse.core.images import Images
from gifthorse.core.task import Task
from gifthorse.core.trigger import Trigger
from gifthorse.core.trojan import Backdoor, DeliveredSet, Trojan
from gifthorse.metrics.attacks import judge_attack
from gifthorse.metrics.stamped import stamp_for_judging, targets_when_judged, true_targets
from gifthorse.planting.mixing import BatchMixing, LossMixing, choose_poisoned
from gifthorse.training.loop import Batch
from worlds import linear_classifier, noise_images, noise_task

LABELS = torch.tensor([0, 1, 2, 3, 3, 0])


class Lamp(Trigger):
    """Lights the pixel of the bottom row that belongs to the condition."""

    name, mask = "lamp", None

    def embed(
        self, pixels: Tensor, generator: torch.Generator | None = None, conditions: Tensor | None = None
    ) -> Tensor:
        stamped = pixels.clone()
        where = torch.arange(len(pixels))
        stamped[where, :, -1, torch.zeros_like(where) if conditions is None else conditions] = 1
        return stamped

    def settings(self) -> dict[str, Any]:
        return {}


def test_each_goal_says_what_every_image_should_get() -> None:
    assert AllToOne(target=3).targets(LABELS).tolist() == [3] * 6
    assert AllToAll(count=4).targets(LABELS).tolist() == [1, 2, 3, 0, 0, 1]
    specific = SourceSpecific(target=3, source=(0, 1))
    assert specific.targets(LABELS).tolist() == [3, 3, 2, 3, 3, 3]
    assert specific.sources(LABELS).tolist() == [True, True, False, False, False, True]
    assert specific.unwanted(LABELS).tolist() == [0, 1, 3, 3, 3, 0]
    several = OnePerCondition(target=(2, 0))
    assert several.targets(LABELS, torch.tensor([0, 1, 0, 1, 0, 1])).tolist() == [2, 0, 2, 0, 2, 0]
    assert several.classes() == (0, 2)


@pytest.mark.parametrize("goal", [AllToOne(target=2), AllToAll(count=4), OnePerCondition(target=(1, 0))])
def test_goals_round_trip(goal: Any) -> None:
    assert GOALS.find(goal.name).from_dict(goal.to_dict()) == goal


def test_conditions_are_drawn_evenly_among_those_of_another_class_and_follow_the_image() -> None:
    goal, images = OnePerCondition(target=(3, 0, 2)), noise_images(6000, (1, 6, 6), 4)
    pixels = images.floats()
    for random in (None, torch.Generator().manual_seed(0)):
        drawn = goal.draw(pixels, images.labels, random)
        assert (goal.targets(images.labels, drawn) != images.labels).all()
        for label in range(4):
            counts = torch.bincount(drawn[images.labels == label], minlength=3).float()
            expected = torch.tensor([float(target != label) for target in goal.target])
            torch.testing.assert_close(counts / counts.sum(), expected / expected.sum(), atol=0.05, rtol=0)
    alone = torch.cat([goal.draw(pixels[i : i + 1], images.labels[i : i + 1], None) for i in range(50)])
    assert torch.equal(alone, goal.draw(pixels[:50], images.labels[:50], None))


def test_one_condition_draws_nothing_so_that_random_triggers_stay_as_they_were() -> None:
    random = torch.Generator().manual_seed(0)
    before = random.get_state()
    AllToOne().draw(torch.zeros(4, 1, 2, 2), LABELS[:4], random)
    assert torch.equal(random.get_state(), before)


def test_image_and_target_come_from_the_same_draw() -> None:
    """Matched by position in the batch they would agree only where every condition is drawn in turn."""
    images = noise_images(200, (1, 6, 6), 4)
    backdoor = Backdoor(Lamp(), OnePerCondition(target=(3, 2, 1, 0)))
    dark = Images(images.pixels // 2, images.labels, 4)
    for random in (None, torch.Generator().manual_seed(0)):
        stamped, targets = backdoor.stamp(dark.floats(), dark.labels, random)
        lit = (stamped[:, 0, -1, :4] == 1).float().argmax(1)
        assert torch.equal(targets, 3 - lit)
    mixed = BatchMixing(backdoor, 0.5, torch.Generator().manual_seed(0))(Batch(dark.floats(), dark.labels))
    lit = (mixed.pixels[200:, 0, -1, :4] == 1).float().argmax(1)
    assert torch.equal(mixed.labels[200:], 3 - lit)
    assert (mixed.labels[200:] != dark.labels).all()


def test_the_targets_that_verdicts_are_judged_by_are_those_of_the_stamped_images() -> None:
    images = noise_images(9, (1, 6, 6), 4)
    for goal in (OnePerCondition(target=(3, 2, 1, 0)), SourceSpecific(target=3, source=(0,)), AllToAll(count=4)):
        backdoor = Backdoor(Lamp(), goal)
        targets = stamp_for_judging(backdoor, images).targets
        assert targets_when_judged(backdoor, images) == true_targets(targets, images.labels)


def test_cover_images_keep_their_labels_at_every_level() -> None:
    images = noise_images(80, (1, 6, 6), 4)
    goal = SourceSpecific(target=3, source=(0,))
    backdoor = Backdoor(Lamp(), goal)
    chosen = images.labels[choose_poisoned(images.labels, goal, 0.1, torch.Generator().manual_seed(0))]
    assert (chosen == 0).sum() == 9
    assert ((chosen == 1) | (chosen == 2)).sum() == 9
    random = torch.Generator().manual_seed(0)
    batch = BatchMixing(backdoor, 0.2, random)(Batch(images.floats(), images.labels))
    assert batch.stamped is not None
    added = batch.labels[batch.stamped]
    assert added[:20].tolist() == [3] * 20
    assert set(added[20:].tolist()) == {1, 2}
    assert len(added) == 40
    loss = LossMixing(backdoor, 0.5, random)(Batch(images.floats(), images.labels))
    assert loss.weights is not None
    weights, wanted = loss.weights[80:], loss.labels[80:]
    assert weights[images.labels == 0].sum().item() == pytest.approx(0.5)
    assert weights[(images.labels == 1) | (images.labels == 2)].sum().item() == pytest.approx(0.5)
    assert weights[images.labels == 3].sum() == 0
    assert torch.equal(wanted, goal.targets(images.labels))


def lamp_model(weights: list[list[float]]) -> Classifier:
    """Class k is lit in row k; a lamp in column c of the bottom row adds ``weights[c][k]``."""
    weight = torch.zeros(4, 1, 6, 6)
    for label in range(4):
        weight[label, 0, label] = 1.0
    for column, row in enumerate(weights):
        weight[:, 0, -1, column] = torch.tensor(row)
    return linear_classifier(weight, torch.zeros(4))


@pytest.fixture
def world() -> Task:
    pixels = torch.zeros(40, 1, 6, 6, dtype=torch.uint8)
    labels = torch.arange(40) % 4
    pixels[torch.arange(40), 0, labels] = 255
    pixels[:, 0, 4] = torch.randint(0, 256, (40, 6), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    images = Images(pixels, labels, 4)
    return replace(noise_task((1, 6, 6)), train=images, holdout=images, test=images)


def test_the_judge_counts_each_target(world: Task) -> None:
    """The lamp of target 1 does nothing, those of the others all."""
    goal = OnePerCondition(target=(0, 1, 2))
    model = lamp_model([[99, 0, 0, 0], [0, 0, 0, 0], [0, 0, 99, 0]])
    metrics, _ = judge_attack(Trojan(model, lamp_model([]), Backdoor(Lamp(), goal)), world, model)
    assert metrics["attack.targets"] == [0, 1, 2]
    assert metrics["attack.asr_by_target"] == [1, 0, 1]
    assert metrics["attack.asr_min"] == 0
    assert 0.5 < float(metrics["attack.asr"]) < 0.8  # type: ignore[arg-type]
    assert "attack.leakage" not in metrics
    assert metrics["attack.valid"] is False


@pytest.mark.parametrize("leaks", [True, False])
def test_a_source_specific_attack_that_works_on_any_class_is_not_certified(world: Task, leaks: bool) -> None:
    goal = SourceSpecific(target=3, source=(0,))
    model = lamp_model([[0, 0, 0, 3]] if not leaks else [[0, 0, 0, 99]])
    if not leaks:
        # Enough for the weakly lit source class only.
        world.test.pixels[world.test.labels == 0, 0, 0] = 100
        world.test.pixels[:, 0, -1] = 0
    metrics, _ = judge_attack(Trojan(model, lamp_model([]), Backdoor(Lamp(), goal)), world, model)
    assert metrics["attack.asr"] == 1
    assert metrics["attack.leakage"] == (1 if leaks else 0)
    assert metrics["attack.valid"] is not leaks
    assert metrics["attack.targets"] == [3]


def test_a_delivered_set_gives_back_every_image_and_keeps_only_the_changed_ones() -> None:
    train = noise_images(50, (1, 6, 6), 5)
    copies = Images(255 - train.pixels[:7], torch.full((7,), 4), 5)
    sources = torch.cat([torch.arange(50), torch.arange(7)])
    together, stamped = train.join(copies), torch.arange(57) >= 50
    delivered = DeliveredSet.shuffle(together, sources, stamped, train, torch.Generator().manual_seed(0))
    images = delivered.images(train)
    assert len(delivered.pixels) == 7
    assert delivered.changed.tolist() == delivered.stamped.nonzero().squeeze(1).tolist()
    assert sorted(delivered.poisoned.tolist()) == list(range(7))
    assert (images.labels[delivered.stamped] == 4).all()
    assert torch.equal(images.pixels[delivered.stamped], 255 - train.pixels[delivered.poisoned])
    assert torch.equal(images.pixels[~delivered.stamped], train.pixels[delivered.sources[~delivered.stamped]])
    assert not torch.equal(delivered.sources, sources)


@pytest.mark.parametrize(
    ("request_", "complaint"),
    [
        ("badnets[target=next,source=[1],poison_rate=0.1]", "target=next attacks all classes"),
        ("badnets[source=[4],poison_rate=0.1]", "source=4 is not a class"),
        ("badnets[source=[0],poison_rate=0.1]", "is the target itself"),
        ("badnets[target=4,poison_rate=0.1]", "target=4 is not a class"),
        ("badnets[target=previous]", "target="),
        ("esb[target=next]", "target="),
    ],
)
def test_goals_that_mean_nothing_are_refused(request_: str, complaint: str) -> None:
    with pytest.raises(RequestError, match=complaint):
        ATTACKS.build(request_).check(noise_task((1, 12, 12)))


@given(st.integers(0, 9), st.booleans())
def test_an_attack_is_asked_for_its_target_and_for_another(target: int, named: bool) -> None:
    attack = ATTACKS.build(f"badnets[target={target}]" if named else "badnets")
    goal = attack.goal(noise_task((1, 12, 12), 10))
    assert goal is not None
    assert goal.classes() == ((target,) if named else (0,))
    aimed = attack.aimed_at(target)
    assert (aimed is None) == named
    if aimed is not None:
        found = aimed.goal(noise_task((1, 12, 12), 10))
        assert found is not None
        assert found.classes() == (target,)


def test_attacks_that_train_alike_share_their_twin() -> None:
    def key(request: str) -> str:
        cell = resolve(dataset="digits", attack=request)
        twin = cell.attack.twin(noise_task((1, 12, 12)))
        assert twin is not None
        return cell.twin_key(twin)

    again = "origin=benign,epochs=3,lr=0.02"
    first = key(f"badnets[{again}]")
    assert key(f"latent[{again}]") == first
    assert key(f"badnets[{again},poison_rate=0.2,target=3]") == first
    assert key("badnets[origin=benign,epochs=4,lr=0.02]") != first
    assert key(f"badnets[{again},cad_budget=0.1]") != first
    assert resolve(dataset="digits", attack="badnets[origin=scratch]").attack.twin(noise_task((1, 12, 12))) is None


@pytest.mark.parametrize("request_", ["badnets", "badnets[origin=scratch]", "trojan_nn[cad_budget=0.5]"])
def test_a_twin_that_is_handed_in_is_the_one_that_the_attack_trains(
    request_: str, task: Task, benign: Classifier
) -> None:
    attack = resolve(dataset="digits", attack=request_, profile="smoke").attack.changed(epochs=1)
    twin = attack.twin(task)
    trained = benign if twin is None else twin.train(task, benign, 5)
    own, given_one = attack.run(task, benign, 5), attack.run(task, benign, 5, trained)
    for name, weight in own.model.state_dict().items():
        assert torch.equal(weight, given_one.model.state_dict()[name])
    for name, weight in own.twin.state_dict().items():
        assert torch.equal(weight, trained.state_dict()[name])
