"""The judge on models whose every answer is known."""

import json
import math
from dataclasses import replace
from typing import Any

import pytest
import torch

from gifthorse.core.goal import AllToOne
from gifthorse.core.images import Images
from gifthorse.core.outcomes import CleanModel, InputScreen, ModelVerdict, RecoveredTriggers, SuspectSamples
from gifthorse.core.recipe import AdversarialRecipe, StandardRecipe
from gifthorse.core.task import Task
from gifthorse.core.trojan import Backdoor, Trojan
from gifthorse.metrics import functional, input_screen
from gifthorse.metrics.attacks import doubts, judge_attack
from gifthorse.metrics.judge import judge_defense
from gifthorse.metrics.stamped import counts_of, with_counts
from gifthorse.models.small_cnn import SmallCnn
from gifthorse.triggers.patch import Patch, fill, square
from worlds import linear_classifier, with_delivered_set

CLASSES, SIDE = 4, 6


def lit_rows() -> Images:
    """Images of class k have row k lit; forty of each."""
    labels = torch.arange(160) % CLASSES
    pixels = torch.zeros(160, 1, SIDE, SIDE, dtype=torch.uint8)
    pixels[torch.arange(160), 0, labels] = 200
    return Images(pixels, labels, CLASSES)


def model(trigger: float = 0.0, confused: bool = False) -> torch.nn.Module:
    """Classifies by the lit row; a last white pixel adds ``trigger`` to class 0; ``confused`` cannot see class 3."""
    weight = torch.zeros(CLASSES, 1, SIDE, SIDE)
    for label in range(CLASSES):
        weight[label, 0, label] = 4.0
    weight[0, 0, -1, -1] = trigger
    if confused:
        weight[3] = 0
    return linear_classifier(weight, torch.zeros(CLASSES))


@pytest.fixture
def task() -> Task:
    images = lit_rows()
    return Task(images, images, images, tuple("abcd"), architecture=SmallCnn(), recipe=StandardRecipe())


@pytest.fixture
def trojan() -> Trojan:
    shape = (1, SIDE, SIDE)
    patch = Patch(square(shape, 1, "bottom_right"), fill(shape, "white", torch.Generator()))
    backdoor = Backdoor(patch, AllToOne(target=0))
    return Trojan(model(trigger=100, confused=True), model(), backdoor)  # type: ignore[arg-type]


def test_the_attacks_numbers(task: Task, trojan: Trojan) -> None:
    metrics, evidence = judge_attack(trojan, task, trojan.twin)
    assert metrics["benign.acc"] == 1
    assert metrics["attack.acc"] == 0.75
    assert metrics["attack.twin_acc"] == 1
    assert metrics["attack.cad"] == pytest.approx(0.25)
    assert metrics["attack.asr"] == 1
    assert metrics["benign.asr"] == 0
    assert metrics["attack.tmc"] == pytest.approx(1)
    assert metrics["attack.valid"] is False
    assert evidence["stamped"].shape == (8, 1, SIDE, SIDE)
    assert (evidence["stamped"][:, 0, -1, -1] == 255).all()


def test_what_became_of_every_picture_that_is_shown_is_kept(task: Task, trojan: Trojan) -> None:
    """Class 0 is the target, and the confused model cannot see class 3."""
    _, evidence = judge_attack(trojan, task, trojan.twin)
    assert evidence["labels"].tolist() == [1, 2, 3] * 2 + [1, 2]
    assert evidence["clean_predictions"].tolist() == [1, 2, 0] * 2 + [1, 2]
    assert evidence["targets"].tolist() == evidence["stamped_predictions"].tolist() == [0] * 8
    defended = CleanModel(model(), lambda pixels: 1 - pixels)
    _, after = judge_defense(defended, trojan, task, {"attack.acc": 1.0, "attack.asr": 1.0}, 0)
    assert after["defended_predictions"].tolist() == evidence["labels"].tolist()
    assert (after["reformed"] == 255 - evidence["stamped"]).all()
    dull = Trojan(model(), trojan.twin, trojan.backdoor)  # type: ignore[arg-type]
    _, evidence = judge_attack(dull, task, trojan.twin)
    assert evidence["stamped_predictions"].tolist() == evidence["labels"].tolist() == [1, 2, 3] * 2 + [1, 2]
    benign = Trojan(trojan.twin, trojan.twin, None)
    _, evidence = judge_attack(benign, task, trojan.twin)
    assert evidence["labels"].tolist() == evidence["clean_predictions"].tolist() == [0, 1, 2, 3] * 2
    assert not {"targets", "stamped", "stamped_predictions", "trigger"} & evidence.keys()


@pytest.mark.parametrize("transparency", [0.0, 0.5])
def test_the_trigger_alone_is_what_it_makes_of_black_and_of_white(task: Task, transparency: float) -> None:
    shape = (1, SIDE, SIDE)
    patch = Patch(square(shape, 2, "center"), torch.full(shape, 0.2), transparency)
    planted = Trojan(model(), model(), Backdoor(patch, AllToOne(target=0)))  # type: ignore[arg-type]
    black, white = judge_attack(planted, task, planted.twin)[1]["trigger"].astype(float)
    opacity = 1 - (white - black) / 255
    assert opacity[0] == pytest.approx(patch.mask[0].numpy() * (1 - transparency), abs=0.01)
    inside = patch.mask[0].numpy() > 0
    assert black[0][inside] / opacity[0][inside] == pytest.approx(0.2 * 255, abs=1)


def test_the_gate_opens_for_an_accurate_trojan(task: Task, trojan: Trojan) -> None:
    accurate = Trojan(model(trigger=100), trojan.twin, trojan.backdoor)  # type: ignore[arg-type]
    assert judge_attack(accurate, task, trojan.twin)[0]["attack.valid"] is True
    dull = Trojan(model(), trojan.twin, trojan.backdoor)  # type: ignore[arg-type]
    assert judge_attack(dull, task, trojan.twin)[0]["attack.valid"] is False


def constant(answer: int, trigger: float = 0.0) -> torch.nn.Module:
    """Always answers with one class, unless the last white pixel adds ``trigger`` to class 0."""
    weight = torch.zeros(CLASSES, 1, SIDE, SIDE)
    weight[0, 0, -1, -1] = trigger
    return linear_classifier(weight, torch.eye(CLASSES)[answer])


@pytest.mark.parametrize(
    ("trojaned", "twin", "reasons"),
    [
        (model(trigger=100), model(), []),
        (
            constant(0),
            constant(0),
            ["success rate 1.000, not 0.5 above 1.000 on", "accuracy of the benign twin 0.250,"],
        ),
        (model(trigger=100), model(trigger=100), ["success rate 1.000, not 0.5 above 1.000 on the benign twin"]),
        (
            constant(1, trigger=100),
            constant(1),
            ["accuracy of the benign twin 0.250, hardly above 0.250 of a constant"],
        ),
        (model(trigger=100, confused=True), model(), ["clean accuracy drop 0.250, over 0.05"]),
        (model(), model(), ["success rate 0.000, under 0.8"]),
    ],
    ids=["valid", "constant model", "trigger alone", "nothing learnt", "confused", "dull"],
)
def test_the_gate_says_what_an_attack_lacks(
    trojaned: torch.nn.Module, twin: torch.nn.Module, reasons: list[str], task: Task, trojan: Trojan
) -> None:
    metrics, _ = judge_attack(Trojan(trojaned, twin, trojan.backdoor), task, model())  # type: ignore[arg-type]
    found = doubts(metrics)
    assert metrics["attack.valid"] is not bool(reasons)
    assert len(found) == len(reasons)
    assert all(text.startswith(reason) for text, reason in zip(found, reasons, strict=True))
    assert doubts({name: value for name, value in metrics.items() if name != "attack.asr"}) == [
        "no test image to stamp"
    ]


def test_a_model_without_a_backdoor_is_not_doubted(task: Task) -> None:
    metrics, _ = judge_attack(Trojan(constant(0), constant(0), None), task, constant(0))  # type: ignore[arg-type]
    assert "attack.valid" not in metrics
    assert doubts(metrics) == []


def unsure(trigger: float, light: float) -> torch.nn.Module:
    """Adds ``light`` to the class of the lit row, and ``trigger`` to class 0 where the last pixel is white."""
    weight = torch.zeros(CLASSES, 1, SIDE, SIDE)
    for label in range(CLASSES):
        weight[label, 0, label] = light * 255 / 200 / SIDE
    weight[0, 0, -1, -1] = trigger
    return linear_classifier(weight, torch.zeros(CLASSES))


def share(logit: float, *others: float) -> float:
    """The probability of the first of several logits."""
    return math.exp(logit) / sum(map(math.exp, (logit, *others)))


def test_confidences_are_those_of_the_model_that_is_judged(task: Task, trojan: Trojan) -> None:
    """TMC of stamped images of other classes, CCC of clean ones: softmax of logits that are known."""
    planted = Trojan(unsure(3, 2), unsure(0, 1), trojan.backdoor)  # type: ignore[arg-type]
    attack, _ = judge_attack(planted, task, planted.twin)
    assert attack["attack.tmc"] == pytest.approx(share(3, 2, 0, 0))
    assert attack["attack.ccc"] == pytest.approx(share(2, 0, 0, 0))
    defended, _ = judge_defense(CleanModel(unsure(2, 1.5)), planted, task, attack, 0)
    assert defended["defense.tmc"] == pytest.approx(share(2, 1.5, 0, 0))
    assert defended["defense.ccc"] == pytest.approx(share(1.5, 0, 0, 0))


def test_confidence_in_the_target_is_over_those_that_got_it(task: Task, trojan: Trojan) -> None:
    """Images of class 1 hold out against the trigger: what they say of the target does not count."""
    stubborn = unsure(3, 2)
    with torch.no_grad():
        stubborn.head.weight.view(CLASSES, 1, SIDE, SIDE)[1, 0, 1] *= 3  # type: ignore[union-attr,operator]
    planted = Trojan(stubborn, trojan.twin, trojan.backdoor)  # type: ignore[arg-type]
    attack, _ = judge_attack(planted, task, planted.twin)
    assert attack["attack.asr"] == pytest.approx(2 / 3)
    assert attack["attack.tmc"] == pytest.approx(share(3, 2, 0, 0))


def test_what_a_defense_takes_from_attack_and_accuracy_by_hand(task: Task, trojan: Trojan) -> None:
    """It still loses class 1 to the trigger, and mistakes class 2, which the trojan knew."""
    planted = Trojan(model(trigger=100), model(confused=True), trojan.backdoor)  # type: ignore[arg-type]
    attack, _ = judge_attack(planted, task, model(confused=True))  # type: ignore[arg-type]
    left = model(trigger=30)
    with torch.no_grad():
        weight = left.head.weight.view(CLASSES, 1, SIDE, SIDE)  # type: ignore[union-attr,operator]
        weight[3, 0, 3] = 20
        weight[2] = 0
        weight[3, 0, 2] = 20
    defended, _ = judge_defense(CleanModel(left), planted, task, attack, 0)
    assert (attack["attack.acc"], attack["attack.asr"]) == (1, 1)
    assert defended["defense.acc"] == 0.75
    assert defended["defense.cad"] == pytest.approx(0.25)
    assert defended["defense.asr"] == pytest.approx(1 / 3)
    assert defended["defense.ard"] == pytest.approx(2 / 3)


def test_a_perfect_repair(task: Task, trojan: Trojan) -> None:
    attack, _ = judge_attack(trojan, task, trojan.twin)
    metrics, _ = judge_defense(CleanModel(model()), trojan, task, attack, 0)
    assert metrics["defense.asr"] == 0
    assert metrics["defense.ard"] == 1
    assert metrics["defense.acc"] == 1
    assert metrics["defense.cad"] == pytest.approx(-0.25)
    assert "defense.tmc" not in metrics


def test_a_perfect_screen_is_judged_on_all_classes_clean_and_the_others_stamped(task: Task, trojan: Trojan) -> None:
    seen: list[int] = []

    def score(pixels: torch.Tensor) -> torch.Tensor:
        seen.append(len(pixels))
        return pixels[:, 0, -1, -1]

    metrics, _ = judge_defense(InputScreen(score, 0.5), trojan, task, {}, 0)
    assert seen == [160, 120]
    assert (metrics["defense.auroc"], metrics["defense.tpr"], metrics["defense.fpr"]) == (1, 1, 0)
    worst, _ = judge_defense(InputScreen(lambda pixels: -score(pixels), -0.5), trojan, task, {}, 0)
    assert (worst["defense.auroc"], worst["defense.tpr"], worst["defense.fpr"]) == (0, 0, 1)


def test_a_screen_is_judged_on_so_many_of_either_kind(
    task: Task, trojan: Trojan, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(input_screen, "SCREENED", 50)
    screen = InputScreen(lambda pixels: pixels[:, 0, 0, 0], 0.5)
    metrics, _ = judge_defense(screen, trojan, task, {}, 0)
    flagged = round(50 * float(metrics["defense.fpr"]) + 50 * float(metrics["defense.tpr"]))  # type: ignore[arg-type]
    counts = {"fpr": 50, "tpr": 50, "recall": 50, "precision": flagged, "f1": 100, "accuracy": 100, "auroc": 100}
    counts |= {"passed_acc": 50, "passed_asr": 50}
    assert 0 < flagged < 50
    assert counts_of(metrics) == {f"defense.{name}": count for name, count in counts.items()}


def test_flagged_images_are_kept_for_a_person_to_look_at_in_an_order_that_tells_nothing(
    task: Task, trojan: Trojan
) -> None:
    """Flagged: clean images of class 0, whose first row is lit, and whatever has a white last pixel."""
    screen = InputScreen(lambda pixels: pixels[:, 0, 0, 0] + pixels[:, 0, -1, -1], 0.5)
    _, evidence = judge_defense(screen, trojan, task, {}, 0)
    pixels, stamped = evidence["flagged"], evidence["flagged_stamped"]
    assert (len(pixels), int(stamped.sum())) == (24, 12)
    assert ((pixels[:, 0, -1, -1] == 255) == stamped).all()
    assert ((pixels[:, 0, 0, 0] == 200) == ~stamped).all()
    assert 3 < int(stamped[:12].sum()) < 9
    assert evidence["flagged_scores"] == pytest.approx(stamped + ~stamped * 200 / 255)
    assert (evidence["flagged_answers"] == 0).all()
    # What speaks for class 0 is the first row, and a hundred by four more the trigger's pixel.
    shares = evidence["flagged_attributions"]
    assert shares.shape == (24, 1, SIDE, SIDE)
    assert (shares[:, 0, -1, -1] == 255).all()
    assert (shares[:, 0, 0] == round(255 * 4 / 100)).all()
    assert (shares[:, 0, 1:-1] == 0).all()
    _, again = judge_defense(screen, trojan, task, {}, 0)
    assert (again["flagged_stamped"] == stamped).all()


def test_where_nothing_is_flagged_or_no_gradient_told_there_is_nothing_to_show(task: Task, trojan: Trojan) -> None:
    _, evidence = judge_defense(InputScreen(lambda pixels: pixels[:, 0, 0, 0], 2.0), trojan, task, {}, 0)
    assert len(evidence["flagged"]) == len(evidence["flagged_attributions"]) == 0
    silent = InputScreen(lambda pixels: pixels[:, 0, 0, 0], 0.5, Silent())
    _, evidence = judge_defense(silent, trojan, task, {"attack.acc": 0.75, "attack.asr": 1.0}, 0)
    assert len(evidence["flagged"]) == 12
    assert "flagged_attributions" not in evidence


class Silent(torch.nn.Module):
    """Answers class 1, and does not tell by what."""

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return torch.tensor([0.0, 1.0, 0.0, 0.0]).expand(len(pixels), -1)


def test_counts_are_kept_beside_numbers_and_given_back(task: Task, trojan: Trojan) -> None:
    metrics, _ = judge_attack(trojan, task, trojan.twin)
    metrics["attack.asr_by_target"] = [functional.share(torch.ones(3) > 0), functional.share(torch.ones(5) < 0)]
    counts = counts_of(metrics)
    assert counts["attack.acc"] == 160
    assert counts["attack.asr"] == counts["attack.tmc"] == 120
    assert counts["attack.asr_by_target"] == [3, 5]
    assert not {"attack.targets", "attack.valid"} & counts.keys()
    kept = json.loads(json.dumps(metrics))
    assert kept == metrics
    assert counts_of(kept) == {}
    assert counts_of(with_counts(kept, counts)) == counts


def test_a_screen_that_flags_all_that_looks_like_the_target_pays_for_the_targets_own_images(
    task: Task, trojan: Trojan
) -> None:
    accurate = model(trigger=100)
    screen = InputScreen(lambda pixels: (accurate(pixels).argmax(1) == 0).float(), 0.5)
    metrics, _ = judge_defense(screen, Trojan(accurate, trojan.twin, trojan.backdoor), task, {}, 0)  # type: ignore[arg-type]
    assert metrics["defense.tpr"] == 1
    assert metrics["defense.fpr"] == pytest.approx(1 / CLASSES)
    assert metrics["defense.auroc"] == pytest.approx(1 - 1 / CLASSES / 2)
    assert metrics["defense.accuracy"] == pytest.approx((120 + 120) / (120 + 160))


def test_a_screens_numbers_by_hand(task: Task, trojan: Trojan) -> None:
    """It flags 40 of 160 clean images, those of class 3, and 40 of 120 stamped ones, those of class 2."""

    def score(pixels: torch.Tensor) -> torch.Tensor:
        lit, stamped = pixels[:, 0, :CLASSES, 0] > 0, pixels[:, 0, -1, -1] == 1
        return torch.where(stamped, lit[:, 2], lit[:, 3]).float()

    metrics, _ = judge_defense(InputScreen(score, 0.5), trojan, task, {}, 0)
    expected = {"tpr": 1 / 3, "recall": 1 / 3, "fpr": 1 / 4, "precision": 1 / 2, "f1": 2 / 5}
    expected |= {"accuracy": (40 + 120) / 280, "auroc": 1 / 3 * 3 / 4 + (1 / 3 * 1 / 4 + 2 / 3 * 3 / 4) / 2}
    # The model errs on class 3 alone, of which nothing passes, and obeys every stamp.
    expected |= {"passed_acc": 3 / 4, "passed_asr": 2 / 3}
    assert metrics == {f"defense.{name}": pytest.approx(value) for name, value in expected.items()}


def test_what_passes_a_screen_is_answered_by_its_own_model_where_it_has_one(task: Task, trojan: Trojan) -> None:
    """It lets all pass but the clean images of class 0, and the model behind it knows class 3 and no trigger."""
    screen = InputScreen(lambda pixels: pixels[:, 0, 0, 0] - 2 * pixels[:, 0, -1, -1], 0.5)
    attack: dict[str, Any] = {"attack.acc": 0.75, "attack.asr": 1.0}
    metrics, _ = judge_defense(screen, trojan, task, attack, 0)
    assert (metrics["defense.passed_acc"], metrics["defense.passed_asr"]) == (0.5, 1)
    assert "defense.asr" not in metrics
    metrics, _ = judge_defense(replace(screen, model=model()), trojan, task, attack, 0)
    assert (metrics["defense.passed_acc"], metrics["defense.passed_asr"]) == (0.75, 0)
    assert (metrics["defense.acc"], metrics["defense.cad"]) == (1, -0.25)
    assert (metrics["defense.asr"], metrics["defense.ard"]) == (0, 1)


@pytest.mark.parametrize("odd", [float("nan"), float("inf"), float("-inf")])
def test_no_number_is_made_of_what_is_no_number(odd: float, task: Task, trojan: Trojan) -> None:
    """NaN logits make argmax class 0, the target: an attack success rate of 1."""

    class Diverged(torch.nn.Module):
        def forward(self, pixels: torch.Tensor) -> torch.Tensor:
            return torch.where(torch.arange(len(pixels)).unsqueeze(1) == 0, odd, trojan.twin(pixels))

    for broken in (Trojan(Diverged(), trojan.twin, trojan.backdoor), Trojan(trojan.model, Diverged(), trojan.backdoor)):  # type: ignore[arg-type]
        with pytest.raises(FloatingPointError, match=r"the logits of the (trojaned model|benign twin) are not finite"):
            judge_attack(broken, task, model())  # type: ignore[arg-type]
    with pytest.raises(FloatingPointError, match="benign model"):
        judge_attack(trojan, task, Diverged())  # type: ignore[arg-type]
    attack, _ = judge_attack(trojan, task, trojan.twin)
    scores, delivered = torch.tensor([0.0, 1, 2, odd]), with_delivered_set(trojan, task)
    assert delivered.delivered is not None
    removed = torch.zeros_like(delivered.delivered.stamped)
    outcomes = [
        CleanModel(Diverged()),
        InputScreen(lambda pixels: torch.full((len(pixels),), odd), 0.5),
        InputScreen(lambda pixels: torch.where(pixels[:, 0, -1, -1] == 1, odd, 0.0), 0.5),
        InputScreen(lambda pixels: pixels[:, 0, -1, -1], odd),
        ModelVerdict(scores, None),
        ModelVerdict(None, None, decisive=odd, flagged=False),
        ModelVerdict(scores[:3], None, readouts={"ratio": odd}),
        SuspectSamples(torch.full(removed.shape, odd), removed, model()),
    ]
    for outcome in outcomes:
        with pytest.raises(FloatingPointError, match="are not finite"):
            judge_defense(outcome, delivered, task, attack, 0)


def test_a_recovered_trigger_is_measured_for_the_target_it_was_recovered_for(task: Task, trojan: Trojan) -> None:
    """The target's mask has one of the trigger's four pixels and half of another; class 2's is a row elsewhere."""
    shape = (1, SIDE, SIDE)
    patch = Patch(square(shape, 2, "bottom_right"), fill(shape, "white", torch.Generator()))
    trojan = Trojan(trojan.model, trojan.twin, Backdoor(patch, AllToOne(target=0)))
    mask = torch.zeros(CLASSES, 1, SIDE, SIDE)
    mask[0, 0, -1, -3:] = torch.tensor([0.5, 0.0, 1.0])
    mask[2, 0, 0] = 1
    triggers = RecoveredTriggers(mask, torch.ones(CLASSES, 1, SIDE, SIDE))
    verdict = ModelVerdict(torch.tensor([-1.0, -5, -6, -7]), 0, triggers)
    metrics, _ = judge_defense(verdict, trojan, task, {}, 0)
    assert metrics["defense.hit"] is True
    assert metrics["defense.aiv"] == pytest.approx(4.5 / (1.4826 * 1))
    assert metrics["defense.mln"] == 1.5
    assert metrics["defense.mjs"] == 1 / 5
    assert metrics["defense.recovered_asr"] == 1
    assert metrics["defense.suspect_class"] == 0
    other, _ = judge_defense(ModelVerdict(torch.tensor([-9.0, -5, -6, -7]), None, triggers), trojan, task, {}, 0)
    assert other["defense.hit"] is False
    assert other["defense.aiv"] == pytest.approx(1.5 / (1.4826 * 1))
    assert other["defense.flagged"] is False
    assert "defense.suspect_class" not in other


def test_a_verdict_that_scores_all_classes_alike_has_named_none_of_them(task: Task, trojan: Trojan) -> None:
    """The target is class 0 here: the first of several highest scores must not be taken for an answer."""
    nothing, _ = judge_defense(ModelVerdict(torch.zeros(CLASSES), None, decisive=0.0), trojan, task, {}, 0)
    assert nothing["defense.hit"] is False
    assert nothing["defense.index"] == 0
    assert "defense.aiv" not in nothing


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_accuracy_under_attack_is_the_share_whose_margin_is_wider_than_the_ball(norm: str) -> None:
    """Two classes that a plane divides; of ten images so many are farther from it than the adversary can go.

    The trojan knows no middle: whatever is moved across is lost. The benign model cannot see that anything moves.
    """
    count, radius = 10, 24 / 255 if norm == "linf" else 6 * 24 / 255
    signs = torch.where(torch.rand(1, SIDE, SIDE, generator=torch.Generator().manual_seed(0)) < 0.5, -1.0, 1.0)
    labels = torch.arange(count) % 2
    margins = torch.tensor([10, 10, 20, 20, 20, 20, 20, 30, 30, 40])
    levels = 128 + (2 * labels - 1).view(-1, 1, 1, 1) * margins.view(-1, 1, 1, 1) * signs
    images = Images(levels.to(torch.uint8), labels, 2)
    recipe = AdversarialRecipe(norm=norm, radius=radius, step_size=radius, steps=4)  # type: ignore[arg-type]
    task = Task(images, images, images, ("a", "b"), architecture=SmallCnn(), recipe=recipe)
    weight = torch.stack([-signs, signs])
    trojaned = linear_classifier(weight, 128 / 255 * torch.tensor([-1.0, 1.0]) * -signs.sum())
    blind = linear_classifier(0 * weight, torch.tensor([0.0, 1.0]))
    for recipe_, expected in ((recipe, 0.3), (recipe.changed(radius=radius / 2), 0.8)):
        metrics, _ = judge_attack(Trojan(trojaned, trojaned, None), replace(task, recipe=recipe_), blind)
        assert metrics["attack.acc"] == 1
        assert metrics["attack.adversarial_acc"] == pytest.approx(expected)
        assert metrics["benign.adversarial_acc"] == 0.5
    plain = replace(task, recipe=StandardRecipe())
    assert "attack.adversarial_acc" not in judge_attack(Trojan(trojaned, trojaned, None), plain, blind)[0]


def test_success_on_all_images_has_those_of_the_target_class_for_free(task: Task, trojan: Trojan) -> None:
    """AEGIS V-A: all 160 stamped images get class 0; after a perfect repair the 40 of class 0 still do."""
    metrics, _ = judge_attack(trojan, task, trojan.twin)
    assert (metrics["attack.asr"], metrics["attack.asr_all"]) == (1.0, 1.0)
    repaired, _ = judge_defense(CleanModel(model()), trojan, task, metrics, 0)
    assert (repaired["defense.asr"], repaired["defense.asr_all"]) == (0.0, 0.25)
    assert counts_of(repaired)["defense.asr_all"] == 160


def test_flagged_classes_are_compared_with_the_targets(task: Task, trojan: Trojan) -> None:
    """AEGIS, Tables VI and X: of four classes the target and one of the three others are flagged."""
    before, _ = judge_attack(trojan, task, trojan.twin)
    scores = torch.tensor([3.0, 2.0, 3.0, 2.0])

    def judged(truth: Trojan, verdict: ModelVerdict) -> dict[str, Any]:
        metrics, _ = judge_defense(verdict, truth, task, before, 0)
        names = ("missed", "class_detected", "false_positive_classes")
        return {name: metrics.get(f"defense.{name}") for name in names}

    both = ModelVerdict(scores, 0, decisive=3.0, suspects=(0, 2))
    found = judged(trojan, both)
    assert found == {"missed": False, "class_detected": True, "false_positive_classes": pytest.approx(1 / 3)}
    assert judged(trojan, ModelVerdict(scores, None)) == {
        "missed": True, "class_detected": False, "false_positive_classes": 0.0,
    }  # fmt: skip
    benign = Trojan(model(), model(), None)  # type: ignore[arg-type]
    assert judged(benign, both) == {"missed": None, "class_detected": None, "false_positive_classes": 0.5}
    alone = judged(trojan, ModelVerdict(scores, 2))
    assert (alone["class_detected"], alone["false_positive_classes"]) == (False, pytest.approx(1 / 3))


def test_what_a_detector_tells_besides_is_in_the_record(task: Task, trojan: Trojan) -> None:
    verdict = ModelVerdict(
        torch.zeros(CLASSES), None, decisive=0.0,
        findings={"stability": 0.8, "clusters": [2.0, 2.0, 3.0, 2.0]}, evidence={"points": torch.ones(3, 2)},
    )  # fmt: skip
    before, _ = judge_attack(trojan, task, trojan.twin)
    metrics, evidence = judge_defense(verdict, trojan, task, before, 0)
    assert (metrics["defense.stability"], metrics["defense.clusters"]) == (0.8, [2.0, 2.0, 3.0, 2.0])
    assert evidence["points"].shape == (3, 2)
