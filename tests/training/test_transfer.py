"""Heads and tuning on real digits: what is trained, what stays, and that it classifies."""

import pytest
import torch
from sklearn.ensemble import RandomForestClassifier
from sklearn.naive_bayes import GaussianNB
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC
from torch import nn

from gifthorse.core.classifier import Classifier, predict
from gifthorse.core.errors import RequestError
from gifthorse.core.images import Images
from gifthorse.core.recipe import StandardRecipe
from gifthorse.core.task import Task
from gifthorse.training import transfer as transfer_module
from gifthorse.training.heads import HEADS
from gifthorse.training.transfer import Transferred, cache_features, transfer
from worlds import digits_task, requests

RECIPE = StandardRecipe(epochs=8, lr=0.05, shift=0, flip=False, batch_size=64)
every_head = pytest.mark.parametrize("name", requests(HEADS))


def accuracy(model: torch.nn.Module, task: Task) -> float:
    return float((predict(model, task.test).argmax(1) == task.test.labels).float().mean())


@every_head
def test_partial_tuning_leaves_the_extractor_and_full_tuning_trains_it(
    name: str, task: Task, benign: Classifier
) -> None:
    head, before = HEADS.build(name), {key: tensor.clone() for key, tensor in benign.state_dict().items()}
    model = transfer(benign, head, task.holdout, RECIPE, 0)
    assert accuracy(model, task) > 0.85
    assert not model.training
    assert all(torch.equal(tensor, before[key]) for key, tensor in benign.state_dict().items())
    kept = all(torch.equal(tensor, before[key]) for key, tensor in model.extractor.state_dict().items())
    assert kept == (head.tuning == "partial")


LIKE = {
    "bayes": GaussianNB(),
    "svm": make_pipeline(StandardScaler(), SVC()),
    "random_forest": RandomForestClassifier(100, random_state=5),
}
"""TrojanZoo's Table 6, as scikit-learn has them."""


@pytest.mark.parametrize("name", HEADS)
def test_a_head_is_what_its_name_says_on_the_features_as_they_were_delivered(
    name: str, task: Task, benign: Classifier
) -> None:
    model = transfer(benign, HEADS.build(name), task.holdout, RECIPE, 0)
    learnt, unseen = (cache_features(benign, images) for images in (task.holdout, task.test))
    logits = predict(model, task.test)
    if name == "fcn1":
        assert isinstance(model.head, nn.Linear)
        expected = unseen @ model.head.weight.T + model.head.bias
    elif name == "fcn2":
        assert isinstance(model.head, nn.Sequential)
        first, relu, second = model.head
        assert isinstance(first, nn.Linear)
        assert isinstance(relu, nn.ReLU)
        assert isinstance(second, nn.Linear)
        expected = (unseen @ first.weight.T + first.bias).relu() @ second.weight.T + second.bias
        assert first.out_features == 256
    else:
        oracle = LIKE[name].fit(learnt.numpy(), task.holdout.labels.numpy())
        agreement = (logits.argmax(1).numpy() == oracle.predict(unseen.numpy())).mean()
        assert agreement > 0.95 if name == "random_forest" else agreement == 1
        return
    torch.testing.assert_close(logits, expected.detach(), atol=1e-3, rtol=1e-3)
    assert accuracy(model, task) > 0.85


@pytest.mark.parametrize("name", ["bayes", "svm", "random_forest"])
def test_a_head_without_gradients_cannot_be_tuned_fully(name: str) -> None:
    with pytest.raises(RequestError, match="passes no gradient"):
        HEADS.build(f"{name}[tuning=full]")


def test_a_head_overrides_the_recipe_where_it_says_so() -> None:
    assert HEADS.build("fcn1").adapt(RECIPE) == RECIPE
    changed = HEADS.build("fcn2[epochs=3,lr=0.5]").adapt(RECIPE)
    assert changed == RECIPE.model_copy(update={"epochs": 3, "lr": 0.5})


def test_milestones_do_not_outlive_the_epochs_that_they_are_counted_in() -> None:
    steps = RECIPE.changed(epochs=200, schedule=[100, 150])
    assert HEADS.build("fcn1[lr=0.01]").adapt(steps) == steps.changed(lr=0.01)
    assert HEADS.build("fcn1[epochs=50]").adapt(steps) == steps.changed(epochs=50, schedule="cosine")


def test_the_downstream_users_share_is_counted_drawn_by_the_seed_and_never_empty(
    task: Task, benign: Classifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Images] = []

    def watching(extractor: Classifier, images: Images) -> torch.Tensor:
        seen.append(images)
        return cache_features(extractor, images)

    monkeypatch.setattr(transfer_module, "cache_features", watching)
    for share, seed in ((0.29, 0), (0.29, 0), (0.29, 1), (1, 0)):
        transfer(benign, HEADS.build(f"bayes[share={share}]"), task.holdout.take(slice(100)), RECIPE, seed)
    assert [len(images) for images in seen] == [29, 29, 29, 100]
    assert torch.equal(seen[0].pixels, seen[1].pixels)
    assert not torch.equal(seen[0].pixels, seen[2].pixels)
    with pytest.raises(RequestError, match=r"share=0\.001 selects none of 100 training images"):
        HEADS.build("fcn1[share=0.001]").count(100)


@every_head
def test_same_seed_same_answers(name: str, task: Task, benign: Classifier) -> None:
    answers = []
    for state in (1, 2):
        torch.manual_seed(state)
        answers.append(predict(transfer(benign, HEADS.build(name), task.holdout, RECIPE, 0), task.test))
    assert torch.equal(*answers)


@every_head
def test_answers_for_classes_it_has_never_seen(name: str, task: Task, benign: Classifier) -> None:
    few = task.holdout.take(task.holdout.labels < 3)
    logits = predict(transfer(benign, HEADS.build(name), few, RECIPE, 0), task.test)
    assert logits.shape == (len(task.test), 10)
    assert logits.isfinite().all()
    assert logits.argmax(1).max() < 3


def test_another_data_set_under_the_same_extractor(task: Task, benign: Classifier) -> None:
    """Even from odd: the downstream task has two classes that the extractor never knew."""
    from dataclasses import replace

    def parity(images: object) -> object:
        return replace(images, labels=images.labels % 2, classes=2)  # type: ignore

    downstream = replace(task, holdout=parity(task.holdout), test=parity(task.test))  # type: ignore[arg-type]
    model = transfer(benign, HEADS["fcn1"](), downstream.holdout, RECIPE, 0)
    assert isinstance(model, Transferred)
    assert accuracy(model, downstream) > 0.8


def test_cached_features_are_the_features() -> None:
    task = digits_task()
    model = task.build(0).eval()
    expected = model.features(task.test.floats())
    torch.testing.assert_close(cache_features(model, task.test), expected, atol=1e-4, rtol=1e-4)
