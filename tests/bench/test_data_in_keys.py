"""Keys hold what was read: other images under the same name are another cell, the same ones are the same cell."""

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from gifthorse.bench.cell import Cell, resolve
from gifthorse.bench.population import run_population
from gifthorse.bench.runner import Runner
from gifthorse.bench.store import Store
from gifthorse.core.configuration import file_digest
from gifthorse.core.record import Record
from gifthorse.datasets import DATASETS

FOLDER = "folder[path=pets,size=8,holdout=2,test=4]"


def paint(folder: Path, value: int, count: int = 8) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        Image.new("RGB", (8, 8), (value, number, 0)).save(folder / f"{number}.png")


@pytest.fixture
def runner(tmp_path: Path) -> Runner:
    for value, name in enumerate(("cat", "dog", "emu")):
        paint(tmp_path / "data/pets" / name, 80 * value)
    return Runner(Store(tmp_path / "store"), tmp_path / "data", torch.device("cpu"))


def cell(attack: str = "none", **request: Any) -> Cell:
    return resolve(dataset=FOLDER, training="standard[epochs=1]", profile="smoke", attack=attack, **request)


def replace_all(data: Path) -> None:
    for name in ("cat", "dog", "emu"):
        paint(data / "pets" / name, 200)


CHANGES: dict[str, Callable[[Path], Any]] = {
    "pictures replaced": replace_all,
    "class renamed": lambda data: (data / "pets/emu").rename(data / "pets/fox"),
    "class deleted": lambda data: shutil.rmtree(data / "pets/emu"),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_other_images_are_another_cell(change: Callable[[Path], Any], runner: Runner) -> None:
    first = runner.run(cell())
    assert runner.run(cell()) == first
    change(runner.data_root)
    second = runner.run(cell())
    assert second.id != first.id
    assert runner.run(cell()) == second
    benign = list((runner.store.root / "artifacts/benign").iterdir())
    assert len(benign) == 2, "the benign model was trained again"


def test_the_same_images_elsewhere_or_touched_are_the_same_cell(runner: Runner, tmp_path: Path) -> None:
    first = runner.run(cell())
    for path in (runner.data_root / "pets").rglob("*.png"):
        os.utime(path, (1, 1))
    assert runner.run(cell()) == first
    runner.data_root.rename(tmp_path / "moved")
    assert replace(runner, data_root=tmp_path / "moved").run(cell()) == first


def test_images_read_before_are_read_again_where_they_changed(runner: Runner) -> None:
    tasks = []
    for value in (7, 9):
        paint(runner.data_root / "pets/cat", value)
        tasks.append(runner._task(cell()))
    assert set(tasks[0].train.pixels[:, 0].unique().tolist()) == {7, 80, 160}
    assert set(tasks[1].train.pixels[:, 0].unique().tolist()) == {9, 80, 160}


def test_the_images_of_a_downstream_user_and_of_a_population_count(runner: Runner) -> None:
    user = resolve(dataset="digits", profile="smoke", downstream="fcn1", downstream_dataset=FOLDER)
    first = runner.reading(user)
    keys = first.benign_key(), first.trojan_key(), first.identity()
    quick = cell("badnets[epochs=1,poison_rate=0.2]", defense="neuron_inspect")
    populations = [run_population(runner, quick, benign=1, trojaned=1)]
    replace_all(runner.data_root)
    second = runner.reading(user)
    assert (second.benign_key(), second.trojan_key()) == keys[:2]
    assert second.identity() != keys[2]
    populations.append(run_population(runner, quick, benign=1, trojaned=1))
    assert populations[0].id != populations[1].id


@pytest.mark.parametrize("attack", ["reflection", "refool"])
def test_the_pictures_that_an_attack_reflects_count(attack: str, tmp_path: Path) -> None:
    paint(tmp_path / "views", 1)
    request = f'{attack}[reflections="{tmp_path / "views"}"]'
    first = cell(request)
    assert cell(request).trojan_key() == first.trojan_key()
    assert tmp_path / "views" in first.files()
    paint(tmp_path / "views", 2)
    second = cell(request)
    assert second.benign_key() == first.benign_key()
    assert second.trojan_key() != first.trojan_key()


def test_a_record_says_what_was_read(runner: Runner, tmp_path: Path) -> None:
    mark = tmp_path / "mark.png"
    Image.new("L", (3, 3), 255).save(mark)
    request = cell(f'badnets[trigger_image="{mark}",epochs=1,poison_rate=0.2]', downstream="fcn1")
    found = runner.run(request)
    assert found.data_digest == request.dataset.digest(runner.data_root) != request.dataset.digest(None)
    assert found.downstream is not None
    assert found.downstream.data_digest == found.data_digest
    assert found.class_names == ["cat", "dog", "emu"]
    assert found.file_digests == {str(mark): file_digest(mark)}
    assert Record.from_json(found.to_json()) == found
    old = json.loads(found.to_json())
    for name in ("data_digest", "class_names", "file_digests"):
        del old[name]
    del old["downstream"]["data_digest"]
    for name in ("torchvision", "numpy", "scikit_learn", "cpu", "system"):
        del old["environment"][name]
    assert Record.model_validate(old).data_digest is None


@pytest.mark.parametrize("name", sorted(DATASETS))
def test_every_data_set_says_what_it_reads(name: str, tmp_path: Path) -> None:
    dataset = DATASETS.build(name)
    read = (*dataset.files(), *dataset.sources(tmp_path))
    assert read
    if name == "digits":
        assert all(path.is_file() for path in read)
        assert dataset.digest(tmp_path) == dataset.digest(None)
    else:
        assert all(path.is_relative_to(tmp_path) for path in read)
