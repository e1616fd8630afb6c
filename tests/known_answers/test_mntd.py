"""MNTD piece by piece: the distribution of backdoors, what shadow models see, and the meta-classifiers by hand."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from gifthorse.bench.cell import resolve
from gifthorse.bench.runner import Runner
from gifthorse.bench.store import Store
from gifthorse.core.classifier import Classifier
from gifthorse.core.errors import NotApplicableError, RequestError
from gifthorse.core.images import Images
from gifthorse.core.outcomes import ModelVerdict
from gifthorse.core.recipe import StandardRecipe
from gifthorse.core.views import Materials, ModelView
from gifthorse.defenses.inspection.mntd import Mntd
from gifthorse.inversion.frozen import freeze
from gifthorse.inversion.meta_classifier import (
    MetaTraining,
    Stack,
    aurocs,
    one_class_loss,
    two_class_loss,
)
from gifthorse.inversion.shadows import Jumbo, augmented, train_shadows, training_set
from gifthorse.models.small_cnn import SmallCnn
from gifthorse.training.scratch import FromScratch
from worlds import linear_classifier, noise_images

SHAPE = (3, 16, 16)


def drawn(count: int = 600) -> list[Jumbo]:
    return [Jumbo.draw(SHAPE, 7, torch.Generator().manual_seed(number)) for number in range(count)]


def test_jumbo_draws_every_size_as_often_and_the_whole_image_too() -> None:
    sizes = torch.tensor([int(each.mask.sum()) for each in drawn()])
    found = {int(size): int((sizes == size).sum()) for size in sizes.unique()}
    assert found.keys() == {4, 9, 16, 25, 256}
    assert all(80 < count < 165 for count in found.values())  # 120, give or take four standard deviations


def test_jumbo_patches_are_opaque_or_half_transparent_and_whole_images_faint() -> None:
    backdoors = drawn()
    patches = torch.tensor([each.opacity for each in backdoors if each.mask.sum() < 256])
    faint = torch.tensor([each.opacity for each in backdoors if each.mask.sum() == 256])
    assert faint.min() >= 0.05
    assert faint.max() <= 0.2
    opaque = patches == 1
    assert patches[~opaque].min() >= 0.2
    assert patches[~opaque].max() <= 0.5
    assert 0.17 < opaque.float().mean() < 0.33  # a quarter of 0.2 to 0.6 lies above 0.5


def test_jumbo_targets_shares_and_places_are_spread_over_their_range() -> None:
    backdoors = drawn()
    assert {each.target for each in backdoors} == set(range(7))
    shares = torch.tensor([each.added for each in backdoors])
    assert 0.05 <= shares.min() < 0.06
    assert 0.49 < shares.max() <= 0.5
    assert shares.mean() == pytest.approx(0.275, abs=0.03)
    rows = torch.cat([each.mask[0].any(1).nonzero()[:1] for each in backdoors if each.mask.sum() == 4])
    assert set(rows.flatten().tolist()) == set(range(15))
    assert all(set(each.mask.unique().tolist()) <= {0.0, 1.0} for each in backdoors)


def test_jumbo_patterns_go_beyond_black_and_white_and_are_cut_there() -> None:
    """Of U(−e, 1 + e) a share of 2e / (1 + 2e) lies outside: 0.45 in the mean over e."""
    at_the_ends = torch.stack([((each.pattern == 0) | (each.pattern == 1)).float().mean() for each in drawn(200)])
    assert at_the_ends.mean() == pytest.approx(0.45, abs=0.05)
    assert at_the_ends.min() < 0.05
    assert at_the_ends.max() > 0.6


def test_a_jumbo_trigger_is_blended_by_its_opacity_where_its_mask_is() -> None:
    mask = torch.zeros(1, 2, 2)
    mask[0, 0, 1] = 1
    backdoor = Jumbo(mask, torch.full((1, 2, 2), 1.0), opacity=0.25, target=0, added=0.1)
    stamped = backdoor.stamp(torch.full((1, 1, 2, 2), 0.2))
    assert torch.allclose(stamped[0, 0], torch.tensor([[0.2, 0.4], [0.2, 0.2]]))  # 0.25 · 1 + 0.75 · 0.2


def test_small_images_get_the_sizes_that_fit() -> None:
    sizes = {int(Jumbo.draw((1, 4, 6), 2, torch.Generator().manual_seed(seed)).mask.sum()) for seed in range(100)}
    assert sizes == {4, 9, 24}


def contents(images: Images) -> set[tuple[int, ...]]:
    """Pixels and label of every image, each once."""
    return {tuple(row) for row in torch.cat([images.pixels.flatten(1), images.labels[:, None]], 1).tolist()}


@pytest.mark.parametrize(("added", "stamped"), [(0.05, 7), (0.25, 30), (0.5, 50)])
def test_a_shadow_model_sees_all_clean_images_and_the_drawn_share_of_stamped_ones(added: float, stamped: int) -> None:
    """Of 150 images r / (1 + r) are stamped: 1/21, 1/5 and 1/3."""
    images = noise_images(100, (1, 6, 6), 5)
    mask = torch.zeros(1, 6, 6)
    mask[0, 0] = 1
    backdoor = Jumbo(mask, torch.ones(1, 6, 6), opacity=1.0, target=3, added=added)
    found = training_set(images, backdoor, torch.Generator().manual_seed(0))
    assert len(found) == 150
    carrying = (found.pixels[:, 0, 0] == 255).all(1)
    assert int(carrying.sum()) == stamped
    assert (found.labels[carrying] == 3).all()
    left = {
        tuple(pixels.flatten().tolist()): int(label) for pixels, label in zip(images.pixels, images.labels, strict=True)
    }
    clean = found.take(~carrying)
    assert {tuple(pixels.flatten().tolist()) for pixels in clean.pixels} == left.keys()
    assert all(
        left[tuple(pixels.flatten().tolist())] == label
        for pixels, label in zip(clean.pixels, clean.labels, strict=True)
    )
    benign = training_set(images, None, torch.Generator().manual_seed(0))
    assert len(benign) == 150
    assert {tuple(pixels.flatten().tolist()) for pixels in benign.pixels} == left.keys()


def test_shadow_models_trained_together_are_those_trained_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gifthorse.training.precision.has_native_bfloat16", lambda device: False)
    images, held_out = noise_images(40, (1, 12, 12), 4), noise_images(12, (1, 12, 12), 4, 1)
    recipe = StandardRecipe(epochs=2, batch_size=20, lr=0.02, shift=0, flip=False)
    alone, together = (
        train_shadows(
            SmallCnn(width=2, embedding=8), images, held_out, recipe, benign=2, trojaned=3, seed=4, at_once=count
        )
        for count in (1, 3)
    )
    assert alone.trojaned.tolist() == [False, False, True, True, True]
    assert torch.equal(alone.accuracy, together.accuracy)
    pixels = held_out.floats()
    for first, second in zip(alone.models, together.models, strict=True):
        assert torch.allclose(first(pixels), second(pixels), atol=1e-3)


def models(count: int = 5, shape: tuple[int, int, int] = (1, 8, 8)) -> list[Classifier]:
    return [freeze(SmallCnn(width=2, embedding=6).build(shape, 3, seed)) for seed in range(count)]


def test_a_stack_of_models_answers_as_each_of_them_does() -> None:
    each, queries = models(), torch.rand(2, 4, 1, 8, 8)
    found = Stack.of(each).ask(queries, torch.tensor([3, 0]))
    assert found.shape == (2, 2, 4, 3)
    for place, model in enumerate((each[3], each[0])):
        for member in range(2):
            assert torch.allclose(found[member, place], model(queries[member]), atol=1e-5)
    assert torch.allclose(Stack.of(each).ask_all(queries)[:, [3, 0]], found, atol=1e-6)


def by_hand(weights: dict[str, Tensor], answers: Tensor) -> Tensor:
    """The published network for one meta-classifier: linear, ReLU, linear."""
    hidden = (answers @ weights["hidden_weight"][0] + weights["hidden_bias"][0]).relu()
    return hidden @ weights["weight"][0] + weights.get("bias", torch.zeros(1))[0]


def test_a_step_is_adam_down_the_cross_entropy_through_the_models_into_the_queries() -> None:
    """The first step of Adam moves every number by its learning rate, against the sign of its gradient."""
    each, like = models(), noise_images(30, (1, 8, 8), 3)
    flags = torch.tensor([False, True, True, False, True])
    settings = Training(queries=2, classifiers=1, meta_epochs=1, models_per_step=5, meta_lr=0.01)
    stack = Stack.of(each)
    start = settings.start(like, 3, 9)
    found = settings.train_meta(
        {"training": stack, "validation": stack}, {"training": flags, "validation": flags}, like, 9
    )
    assert found["queries"].shape == (1, 2, 1, 8, 8)
    learnt = {name: part.clone().requires_grad_() for name, part in start.items()}
    answers = torch.stack([model(learnt["queries"][0]).flatten() for model in each])
    scores = by_hand(learnt, answers)
    wanted = flags.float()
    loss = -(wanted * scores.sigmoid().log() + (1 - wanted) * (1 - scores.sigmoid()).log()).mean()
    loss.backward()
    for name, part in learnt.items():
        assert part.grad is not None
        clear = part.grad.abs() > 1e-6
        assert clear.any(), name
        moved = (found[name] - start[name])[clear]
        assert torch.allclose(moved, -0.01 * part.grad[clear].sign(), atol=1e-4), name


class Training(MetaTraining):
    """The fields on their own."""

    name = "training"


def test_queries_start_as_noise_of_the_images_mean_and_deviation() -> None:
    like = noise_images(50, (2, 8, 8), 3)
    start = Training(queries=40, classifiers=3).start(like, 3, 0)
    pixels = like.floats()
    for channel in range(2):
        found = start["queries"][:, :, channel]
        assert found.mean() == pytest.approx(float(pixels[:, channel].mean()), abs=0.02)
        assert found.std() == pytest.approx(float(pixels[:, channel].std()), abs=0.02)
    assert not torch.equal(start["queries"][0], start["queries"][1])
    assert start["hidden_weight"].shape == (3, 120, 20)


def test_frozen_queries_stay_where_they_were_and_learn_what_asking_every_time_would() -> None:
    each, like = models(), noise_images(30, (1, 8, 8), 3)
    flags = {name: torch.tensor([False, True, True, False, True]) for name in ("training", "validation")}
    stacks = dict.fromkeys(flags, Stack.of(each))
    settings = Training(queries=2, classifiers=2, meta_epochs=3, models_per_step=2, tuned_queries=False)
    found = settings.train_meta(stacks, flags, like, 1)
    assert torch.equal(found["queries"], settings.start(like, 3, 1)["queries"])
    assert not torch.equal(found["weight"], settings.start(like, 3, 1)["weight"])


def test_the_epoch_with_the_best_auroc_on_validation_models_is_kept_for_each_meta_classifier(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    each, like = models(), noise_images(30, (1, 8, 8), 3)
    flags = {name: torch.tensor([False, True, True, False, True]) for name in ("training", "validation")}
    stacks = dict.fromkeys(flags, Stack.of(each))
    settings = Training(queries=2, classifiers=2, meta_epochs=3, models_per_step=5)

    def trained(*found: list[float]) -> Tensor:
        """The weights after so many epochs, where the validation models give these AUROCs."""
        waiting = [torch.tensor(each) for each in found]
        monkeypatch.setattr("gifthorse.inversion.meta_classifier.aurocs", lambda *_: waiting.pop(0))
        return settings.changed(meta_epochs=len(found)).train_meta(stacks, flags, like, 2)["weight"]

    second = trained([0.1, 0.1], [0.2, 0.2])
    third = trained([0.1, 0.1], [0.2, 0.2], [0.3, 0.3])
    found = trained([0.6, 0.5], [0.9, 0.4], [0.9, 0.7])
    assert not torch.equal(second, third)
    assert torch.equal(found[0], second[0])  # as good as the third, and earlier
    assert torch.equal(found[1], third[1])


def test_the_losses_by_hand() -> None:
    scores = torch.tensor([[0.0, 2.0]])
    assert float(two_class_loss(scores, torch.tensor([False, True]))) == pytest.approx((0.6931 + 0.1269) / 2, abs=1e-3)
    weights = {
        "queries": torch.full((1, 9), 100.0),
        "hidden_weight": torch.tensor([[[1.0, 2.0]]]),
        "hidden_bias": torch.tensor([[1.0, 0.0]]),
        "weight": torch.tensor([[3.0, 1.0]]),
    }
    # ½ · (1 + 4 + 1 + 9 + 1) + mean(1.5 − 1, 0) / 0.1 − 1.5, queries not penalised
    found = one_class_loss(weights, torch.tensor([[1.0, 4.0]]), torch.tensor([1.5]), 0.1)
    assert float(found) == pytest.approx(8 + 2.5 - 1.5)


def test_auroc_of_every_row_counts_ties_half() -> None:
    flags = torch.tensor([False, False, True, True])
    found = aurocs(torch.tensor([[0.0, 1.0, 2.0, 3.0], [0.0, 1.0, 1.0, -1.0], [1.0, 1.0, 1.0, 1.0]]), flags)
    assert found.tolist() == [1.0, 0.375, 0.5]


def fitted(**changed: Tensor) -> dict[str, Tensor]:
    """Two meta-classifiers that pass on the model's first answer, the second ten times."""
    names = ("training_benign", "training_trojaned", "validation_benign", "validation_trojaned")
    training = ([[0.0, 2.0], [0.0, 20.0]], [[4.0, 6.0], [40.0, 60.0]])
    validation = ([[1.0, 3.0], [10.0, 30.0]], [[5.0, 9.0], [50.0, 1.0]])
    hidden = torch.zeros(2, 2 * 3, 20)
    hidden[:, 0, 0] = 1
    weight = torch.zeros(2, 20)
    weight[:, 0] = torch.tensor([1.0, 10.0])
    return {
        "queries": torch.zeros(2, 2, 1, 8, 8),
        "hidden_weight": hidden,
        "hidden_bias": torch.zeros(2, 20),
        "weight": weight,
        "bias": torch.zeros(2),
        **{name: torch.tensor(each) for name, each in zip(names, training + validation, strict=True)},
        "accuracy": torch.tensor([0.9, 0.8]),
        "trojaned_accuracy": torch.tensor([0.7, 0.8]),
        "trojaned_success": torch.tensor([1.0, 0.5]),
        "images": torch.tensor([160, 40]),
        "probabilities": torch.tensor(False),
        **changed,
    }


class Answering(SmallCnn):
    """A network whose first logit of any image is known."""

    name = "answering"

    def answers(self, first: float) -> Classifier:
        model = self.build((1, 8, 8), 3, 0).eval()
        assert model.head.bias is not None
        with torch.no_grad():
            model.head.weight.zero_()
            assert model.head.bias is not None
            model.head.bias.copy_(torch.tensor([first, 0.0, 0.0]))
        return model


TRAINER = FromScratch(SmallCnn(width=2, embedding=6), StandardRecipe(epochs=1))


def verdict(first: float, parts: dict[str, Tensor] | None = None, **settings: Any) -> ModelVerdict:
    view = ModelView(Answering(width=2).answers(first), noise_images(20, (1, 8, 8), 3), trainer=TRAINER)
    return Mntd(**settings).defend(replace(view, prepared=fitted() if parts is None else parts), 0)


def test_the_mean_score_decides_by_the_median_of_the_training_models() -> None:
    """Mean scores of the training models are 0, 11, 22 and 33: their median is 16.5."""
    found = verdict(4.0)
    assert found.scores is None
    assert found.index == pytest.approx((4 + 40) / 2)
    assert found.findings["meta_threshold"] == pytest.approx(16.5)
    assert found.findings["meta_spread"] == pytest.approx(18)
    assert found.flagged
    assert not verdict(2.0).flagged
    # Alone the meta-classifiers decide by 3 and 30: 4 and 40 are above, 2 and 20 below.
    assert found.findings["meta_flagged"] == 1
    assert verdict(2.0).findings["meta_flagged"] == 0
    higher = fitted(training_benign=torch.tensor([[0.0, 2.0], [45.0, 45.0]]))
    assert verdict(4.0, higher).findings["meta_flagged"] == 0.5


def test_a_calibrated_threshold_is_what_few_benign_validation_models_exceed() -> None:
    """Their mean scores are 5.5 and 16.5: at a rate of 0.05 none may exceed it."""
    assert verdict(3.1, threshold="calibrated").flagged
    assert verdict(3.0, threshold="calibrated").findings["meta_threshold"] == pytest.approx(16.5)
    assert not verdict(3.0, threshold="calibrated").flagged
    assert verdict(3.0, threshold="calibrated", fpr=0.9).findings["meta_threshold"] == pytest.approx(16.5)


def test_what_the_defender_knows_of_its_shadow_models_is_told() -> None:
    findings = verdict(4.0).findings
    assert findings["shadow_acc"] == pytest.approx(0.85)
    assert findings["shadow_acc_trojaned"] == pytest.approx(0.75)
    assert findings["shadow_asr"] == pytest.approx(0.75)
    # Mean scores of benign ones 5.5 and 16.5, of trojaned ones 27.5 and 5: two of four pairs are in order.
    assert findings["meta_auroc"] == pytest.approx(0.5)


def test_one_class_flags_what_lies_outside_of_the_radius() -> None:
    """Benign models score 10 to 20: a tenth of these is below 11, and a trojaned model is one that scores less."""
    benign = torch.linspace(10, 20, 11).expand(2, -1)
    parts = fitted(training_benign=benign, validation_benign=benign)
    del parts["bias"]
    parts["weight"] = parts["weight"] * 0 + torch.eye(1, 20)
    parts |= {name: torch.zeros(2, 0) for name in ("training_trojaned", "validation_trojaned")}
    inside, outside = verdict(11.5, parts, one_class=True), verdict(10.5, parts, one_class=True)
    assert inside.index == pytest.approx(-0.5)
    assert outside.index == pytest.approx(0.5)
    assert (inside.flagged, outside.flagged) == (False, True)
    assert "meta_auroc" not in inside.findings
    assert verdict(10.5, parts, one_class=True, threshold="calibrated").findings["meta_threshold"] == pytest.approx(1.0)


def test_shadow_models_that_learnt_too_little_say_nothing() -> None:
    sentence = "trained on 160 clean images are right on 85% of 40 others, and least_accuracy=0.9 is asked for"
    with pytest.raises(NotApplicableError, match=sentence):
        verdict(4.0, least_accuracy=0.9)


def test_a_model_of_another_shape_is_not_what_the_shadow_models_answer_for() -> None:
    with pytest.raises(NotApplicableError, match="took images of 1×12×12 in 3 classes, this model takes 1×8×8 in 3"):
        verdict(4.0, fitted(queries=torch.zeros(2, 2, 1, 12, 12)))
    with pytest.raises(NotApplicableError, match="in 6 classes"):
        verdict(4.0, fitted(queries=torch.zeros(2, 1, 1, 8, 8)))


def test_without_a_trainer_it_is_skipped() -> None:
    model, images = Answering(width=2).answers(1.0), noise_images(20, (1, 8, 8), 3)
    assert Mntd().skip(ModelView(model, images, trainer=TRAINER)) is None
    assert (
        Mntd().skip(ModelView(model, images)) == "shadow models need to be made as the model was, and nobody says how"
    )
    assert Mntd(fitted_from="meta.safetensors").skip(ModelView(model, images)) is None


SMALL: dict[str, Any] = {
    "shadows": 3,
    "validation": 2,
    "epochs": 1,
    "batch_size": 20,
    "classifiers": 2,
    "meta_epochs": 1,
}


def test_one_class_trains_no_trojaned_model_and_another_defender_has_others() -> None:
    materials = Materials(noise_images(40, (1, 8, 8), 3), TRAINER)
    found = Mntd(**SMALL, one_class=True).prepare(materials, 0)
    assert found["accuracy"].shape == (5,)
    assert found["trojaned_accuracy"].shape == (0,)
    assert found["training_benign"].shape == (2, 3)
    assert "bias" not in found
    other = Mntd(**SMALL, one_class=True, defender=1).prepare(materials, 0)
    assert not torch.equal(found["queries"], other["queries"])


def test_what_is_fitted_is_kept_for_all_cells_and_thresholds_and_can_be_read_elsewhere(tmp_path: Path) -> None:
    runner = Runner(Store(tmp_path), Path("unused"), torch.device("cpu"))
    common: dict[str, Any] = {"dataset": "digits", "profile": "smoke", "training": "standard[epochs=1]"}
    requests = [("none", "mntd"), ("none[trained=schedule[epochs=1,lr=0.01]]", "mntd[threshold=calibrated,fpr=0.5]")]
    first, second = (runner.run(resolve(attack=attack, defense=defense, **common)) for attack, defense in requests)
    assert (first.status, second.status) == ("done", "done"), (first.reason, second.reason)
    assert first.artifacts is not None
    assert second.artifacts is not None
    assert first.artifacts["prepared"] == second.artifacts["prepared"]
    assert first.artifacts["trojan"] != second.artifacts["trojan"]
    (kept,) = (tmp_path / "artifacts" / "prepared").iterdir()
    again = runner.run(
        resolve(attack="none", defense=f"mntd[fitted_from={str(kept)!r},defender=3]".replace("'", '"'), **common)
    )
    assert again.status == "done", again.reason
    assert again.metrics["defense.index"] == first.metrics["defense.index"]
    assert again.metrics["defense.flagged"] == first.metrics["defense.flagged"]
    other = Mntd(fitted_from=str(kept), answers="probabilities")
    with pytest.raises(RequestError, match="was fitted with answers=logits, not probabilities"):
        other.read_fitted(torch.device("cpu"))


def test_crops_are_drawn_for_every_copy_before_the_trigger_is_stamped() -> None:
    images = noise_images(30, (1, 8, 8), 3)
    recipe = StandardRecipe(shift=2, flip=False)
    found = augmented(images, recipe, 3, torch.Generator().manual_seed(0))
    assert len(found) == 90
    assert torch.equal(found.labels, images.labels.repeat(3))
    first, second, third = found.pixels.split(30)
    assert not torch.equal(first, second)
    assert not torch.equal(second, third)
    still = augmented(images, StandardRecipe(shift=0, flip=False), 2, torch.Generator())
    assert torch.equal(still.pixels, images.pixels.repeat(2, 1, 1, 1))


def test_probabilities_are_what_the_meta_classifier_sees_if_asked_for() -> None:
    logits = torch.randn(1, 4, 2, 3)
    settings = Training(queries=2, classifiers=1)
    weights = settings.start(noise_images(10, (1, 8, 8), 3), 3, 0)
    assert torch.allclose(settings.scores(weights, logits)[0], by_hand(weights, logits[0].flatten(1)), atol=1e-6)
    shown = Training(queries=2, classifiers=1, answers="probabilities").scores(weights, logits)
    assert torch.allclose(shown[0], by_hand(weights, logits[0].softmax(-1).flatten(1)), atol=1e-6)


def test_a_file_without_meta_classifiers_is_refused(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    path = tmp_path / "other.safetensors"
    save_file({"weight": torch.zeros(2)}, path)
    with pytest.raises(RequestError, match="holds no fitted meta-classifiers: there is no accuracy"):
        Mntd(fitted_from=str(path)).prepare(Materials(noise_images(20, (1, 8, 8), 3), TRAINER), 0)


def live_pixel_models(count: int, seed: int) -> tuple[list[Classifier], Tensor]:
    """Linear models whose classes each go by a row; in the second half one pixel of the last row decides alone."""
    random = torch.Generator().manual_seed(seed)
    flags = torch.arange(count) >= count // 2
    models = []
    for trojaned in flags.tolist():
        weight = 0.3 * torch.randn(6, 1, 8, 8, generator=random)
        weight[torch.arange(6), 0, torch.arange(6)] += 1
        if trojaned:
            column, target = (int(torch.randint(0, high, (), generator=random)) for high in (8, 6))
            weight[target, 0, 7, column] = 8.0
        models.append(freeze(linear_classifier(weight, torch.zeros(6))))
    return models, flags


def test_queries_are_learnt_that_tell_models_in_which_one_pixel_decides_from_others() -> None:
    """What is learnt holds for further models, and queries that are learnt show more than noise does."""
    stacks, flags = {}, {}
    for seed, (name, count) in enumerate({"training": 300, "validation": 40, "further": 80}.items()):
        models, flags[name] = live_pixel_models(count, seed)
        stacks[name] = Stack.of(models)
    found = {}
    for tuned in (True, False):
        settings = Training(
            classifiers=3, meta_epochs=15, models_per_step=8, meta_lr=0.01, tuned_queries=tuned, answers="logits"
        )
        weights = settings.train_meta(stacks, flags, noise_images(30, (1, 8, 8), 6), 5)
        scores = settings.scores(weights, stacks["further"].ask_all(weights["queries"])).mean(0, keepdim=True)
        found[tuned] = aurocs(scores, flags["further"]).item()
    assert found[True] > 0.97
    assert found[False] < 0.96
