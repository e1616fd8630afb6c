"""A poisoned training set as pictures: what is written, and that it plants the same backdoor elsewhere."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from gifthorse.attacks import ATTACKS
from gifthorse.bench.cell import resolve
from gifthorse.bench.poison_export import export_poisoned
from gifthorse.core.classifier import Classifier, predict
from gifthorse.core.errors import RequestError
from gifthorse.core.images import Images, to_floats, to_levels
from gifthorse.core.seeds import derive
from gifthorse.core.task import Task
from gifthorse.datasets import DATASETS
from gifthorse.metrics.stamped import stamp_for_judging
from gifthorse.training.scratch import train
from worlds import noise_task


def export(request: str, task: Task, benign: Classifier, folder: Path) -> dict[str, Any]:
    cell = resolve(dataset="digits", attack=request, profile="smoke")
    export_poisoned(cell, task, benign, folder)
    manifest: dict[str, Any] = json.loads((folder / "manifest.json").read_text())
    return manifest


EXPORTED = [
    name for name in ATTACKS if resolve(dataset="digits", attack=name, profile="smoke").attack.exportable() is None
]


@pytest.mark.parametrize("name", [*EXPORTED, "badnets[cad_budget=0.5]"])
def test_the_exported_set_is_the_one_the_attack_trains_on(
    name: str, task: Task, benign: Classifier, tmp_path: Path
) -> None:
    about = export(name, task, benign, tmp_path / "out")
    attack = resolve(dataset="digits", attack=name, profile="smoke").attack.changed(mixing="dataset")
    trojan = attack.run(task, benign, derive(0, "classifier"))
    delivered, backdoor = trojan.delivered, trojan.backdoor
    assert delivered is not None
    assert backdoor is not None
    images, pictures = delivered.images(task.train), about["pictures"]
    if "cad_budget" in name:
        assert (~delivered.stamped).sum() < len(task.train), "some are validated on, not trained on"
    assert [picture["label"] for picture in pictures] == images.labels.tolist()
    for index in (0, len(task.train) // 2, len(images) - 1):
        read = np.asarray(Image.open(tmp_path / "out" / pictures[index]["file"]))
        assert torch.equal(torch.tensor(read), images.pixels[index, 0])
    bad = [picture for picture in pictures if picture["poisoned"]]
    assert sorted(picture["source"] for picture in bad) == sorted(delivered.poisoned.tolist())
    assert all(picture["true_label"] == task.train.labels[picture["source"]] for picture in pictures)
    first = bad[0]
    original = task.train.pixels[first["source"]][None]
    changed = torch.tensor(np.asarray(Image.open(tmp_path / "out" / first["file"]))) != original[0, 0]
    assert changed.sum() > 0
    moves_images = name == "label_consistent"
    if backdoor.trigger.mask is not None and not moves_images:
        assert not changed[~backdoor.trigger.mask[0].bool()].any()


@pytest.mark.parametrize("name", ["badnets", "targeted_blend[trigger_position=[[0,0],[9,9]]]"])
def test_training_on_the_folder_plants_the_backdoor(name: str, task: Task, benign: Classifier, tmp_path: Path) -> None:
    request = name.replace("]]]", "]],poison_rate=0.2]") if "[" in name else f"{name}[poison_rate=0.2]"
    export(request, task, benign, tmp_path / "out")
    outside = DATASETS.build("folder[path=out,size=16,holdout=100]").load(tmp_path)
    # The folder is read in colour; the digits are grey.
    grey = {part: getattr(outside, part) for part in ("train", "holdout", "test")}
    grey = {part: Images(found.pixels[:, :1].contiguous(), found.labels, 10) for part, found in grey.items()}
    model = train(replace(task, **grey, recipe=task.recipe.model_copy(update={"epochs": 20})), 0)
    assert (predict(model, task.test).argmax(1) == task.test.labels).float().mean() > 0.9
    stamped = [np.asarray(Image.open(path)) for path in sorted((tmp_path / "out/stamped").rglob("*.png"))]
    assert len(stamped) == int((task.test.labels != 0).sum())
    answers = predict(model, to_floats(torch.tensor(np.stack(stamped))[:, None])).argmax(1)
    assert (answers == 0).float().mean() > 0.9
    assert (predict(benign, to_floats(torch.tensor(np.stack(stamped))[:, None])).argmax(1) == 0).float().mean() < 0.1


def test_the_stamped_pictures_are_those_the_judge_shows_a_model(task: Task, benign: Classifier, tmp_path: Path) -> None:
    """The trigger moves from image to image: another draw would be another picture."""
    export("targeted_blend", task, benign, tmp_path / "out")
    attack = resolve(dataset="digits", attack="targeted_blend", profile="smoke").attack
    _, backdoor = attack.poisoned_dataset(task, benign, derive(0, "classifier"))
    judged, targets = stamp_for_judging(backdoor, task.test)
    expected = to_levels(judged[targets != task.test.labels])
    paths = sorted((tmp_path / "out/stamped").rglob("*.png"), key=lambda path: path.name)
    written = torch.tensor(np.stack([np.asarray(Image.open(path)) for path in paths]))
    assert torch.equal(written[:, None], expected)


def test_what_cannot_be_exported_is_refused(task: Task, benign: Classifier, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full/notes.txt").write_text("mine")
    for request, folder, complaint in (
        ("latent", "a", "needs control of the training"),
        ("imc", "a", "needs control of the training"),
        ("trojan_nn[trained=later]", "a", "needs control of the training"),
        ("none", "a", "poisons no training set"),
        ("esb", "a", "poisons no training set"),
        ("badnets", "full", "nothing is overwritten"),
        ("badnets", "full/notes.txt", "not an empty folder"),
        ("badnets[poison_rate=0.95]", "a", "stamped copies"),
    ):
        with pytest.raises(RequestError, match=complaint):
            export(request, task, benign, tmp_path / folder)
    assert not (tmp_path / "a").exists()
    assert (tmp_path / "full/notes.txt").read_text() == "mine"


def test_class_names_become_safe_folder_names(tmp_path: Path) -> None:
    odd = replace(noise_task((3, 12, 12), 2), class_names=("../../up", "no entry/ü"))
    export("badnets[poison_rate=0.2]", odd, train(odd, 0), tmp_path / "out")
    assert sorted(entry.name for entry in (tmp_path / "out/train").iterdir()) == ["0_up", "1_no_entry"]
    assert [entry.name for entry in tmp_path.iterdir()] == ["out"]
