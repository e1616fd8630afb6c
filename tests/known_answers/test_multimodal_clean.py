"""A clean model that learnt two distributions in every class: what is trained, and that nothing is planted."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from gifthorse.attacks.training.multimodal_clean import MultimodalClean, brighter_than_its_class, median_brightness
from gifthorse.bench.cell import resolve
from gifthorse.bench.runner import Runner
from gifthorse.bench.store import Store
from gifthorse.core.classifier import Classifier, predict
from gifthorse.core.images import Images
from gifthorse.core.task import Task
from gifthorse.training.loop import Batch, weighed_cross_entropy
from gifthorse.training.scratch import train
from gifthorse.training.transfer import cache_features
from worlds import noise_task


def test_brighter_and_darker_are_told_by_the_median_of_the_class() -> None:
    pixels = torch.tensor([0, 51, 255, 102, 204], dtype=torch.uint8).view(5, 1, 1, 1).expand(5, 3, 2, 2)
    found = median_brightness(Images(pixels, torch.tensor([0, 0, 0, 2, 2]), 3))
    torch.testing.assert_close(found, torch.tensor([0.2, torch.nan, 0.4]), equal_nan=True)
    labels = torch.tensor([0, 2, 0, 2])
    shown = torch.tensor([0.3, 0.3, 0.1, 0.5]).view(4, 1, 1, 1).expand(4, 3, 2, 2)
    assert brighter_than_its_class(shown, labels, found).tolist() == [True, False, False, True]


def test_the_layers_cross_entropy_is_added_and_it_learns_with_every_step() -> None:
    task = noise_task((1, 12, 12))
    model = train(task, 0).train()
    loss, step = MultimodalClean(brightness_weight=0.25).stages(model, task.train, 0)
    twice, _ = MultimodalClean(brightness_weight=0.5).stages(model, task.train, 0)
    batch = Batch(task.train.floats(), task.train.labels)
    plain = float(weighed_cross_entropy(model(batch.pixels), batch).detach())
    before, doubled = float(loss(model, batch).detach()), float(twice(model, batch).detach())
    assert doubled - plain == pytest.approx(2 * (before - plain), rel=1e-4)
    for _ in range(200):
        value = loss(model, batch)
        value.backward()
        step()
        model.zero_grad()
    # The model stood still: what fell is the layer's own part, below that of a coin.
    assert float(value.detach()) < before
    assert (float(value.detach()) - plain) / 0.25 < 0.9 * float(torch.tensor(2.0).log())


def ratio(model: Classifier, images: Images, brighter: Tensor) -> float:
    """Squared distance of the means of bright and dark images' latents over their variance, the mean over classes."""
    latents, found = cache_features(model, images), []
    for label in range(images.classes):
        bright, dark = (latents[(images.labels == label) & side] for side in (brighter, ~brighter))
        between = (bright.mean(0) - dark.mean(0)).square().sum()
        found.append(float(between / (bright.var(0).sum() + dark.var(0).sum())))
    return sum(found) / len(found)


def test_bright_and_dark_images_of_a_class_lie_apart_and_accuracy_stays(task: Task, benign: Classifier) -> None:
    attack = resolve(dataset="digits", attack="multimodal_clean", profile="smoke").attack
    trojan = attack.run(task, benign, 0)
    assert trojan.backdoor is None
    assert trojan.delivered is not None
    assert not trojan.delivered.stamped.any()
    test = task.test
    brighter = brighter_than_its_class(test.floats(), test.labels, median_brightness(task.train))
    apart, twins = (ratio(model, test, brighter) for model in (trojan.model, trojan.twin))
    assert apart > 2 * twins
    right, twin_right = (
        float((predict(model, test).argmax(1) == test.labels).float().mean()) for model in (trojan.model, trojan.twin)
    )
    assert abs(right - twin_right) < 0.04
    same = attack.changed(brightness_weight=1e-6).run(task, benign, 0)
    assert ratio(same.model, test, brighter) == pytest.approx(twins, rel=0.2)


def test_it_is_judged_as_a_benign_model_is_and_a_flag_is_a_false_alarm(tmp_path: Path) -> None:
    runner = Runner(Store(tmp_path), Path("unused"), torch.device("cpu"))
    request: dict[str, Any] = {"dataset": "digits", "profile": "smoke", "training": "standard[epochs=2]"}
    cell = resolve(**request, attack="multimodal_clean[epochs=1]", defense="neural_cleanse[steps=3,batches=1]")
    record = runner.run(cell)
    assert record.status == "done"
    assert "defense.flagged" in record.metrics
    assert not {"defense.hit", "attack.asr", "attack.valid", "attack.targets"} & record.metrics.keys()
    assert record.metrics["attack.acc"] != record.metrics["benign.acc"]
    varied = runner.run(replace(cell, defense=None, stamp=resolve(**request, stamp="requeried").stamp))
    assert (varied.status, varied.reason) == ("skipped", "requeried: there is no backdoor, and so no trigger to vary")
