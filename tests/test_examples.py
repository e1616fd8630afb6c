"""The detector and the data set among the examples do what they say; that all of them run is in test_structure.py."""

from pathlib import Path

import numpy as np
import pytest

from gifthorse.bench.plugins import load_plugin
from gifthorse.core.classifier import Classifier
from gifthorse.core.configuration import CATALOGUES
from gifthorse.core.errors import RequestError
from gifthorse.core.task import Dataset, Task
from gifthorse.core.trojan import Trojan
from gifthorse.core.views import ModelView

EXAMPLES = Path(__file__).parents[1] / "examples"

pytestmark = pytest.mark.usefixtures("_forgets_plugins")


@pytest.mark.parametrize("seed", [0, 1])
def test_the_detector_tells_a_trojan_from_a_benign_model_by_a_wide_margin(
    task: Task, benign: Classifier, trojan: Trojan, seed: int
) -> None:
    load_plugin(EXAMPLES / "own_detector.py")
    detector = CATALOGUES["defense"].build("sliding_square")
    found, nothing = (detector.defend(ModelView(model, task.holdout), seed) for model in (trojan.model, benign))
    assert found.flagged
    assert found.suspect == 0
    assert found.index > 0.9
    assert not nothing.flagged
    assert nothing.suspect is None
    assert nothing.index < 0.4


def arrays(path: Path | str) -> Dataset:
    load_plugin(EXAMPLES / "own_dataset.py")
    dataset = CATALOGUES["dataset"].build({"name": "arrays", "path": str(path), "holdout": 3, "test": 4})
    assert isinstance(dataset, Dataset)
    return dataset


@pytest.mark.parametrize("shape", [(20, 9, 8), (20, 9, 8, 3)])
def test_the_data_set_reads_grey_and_coloured_arrays_and_knows_another_content(
    shape: tuple[int, ...], tmp_path: Path
) -> None:
    images = np.arange(np.prod(shape), dtype=np.uint32).astype(np.uint8).reshape(shape)
    labels = np.arange(20) % 3
    np.savez(tmp_path / "mine.npz", images=images, labels=labels)
    dataset = arrays("mine.npz")
    splits = dataset.load(tmp_path)
    assert [len(part) for part in (splits.train, splits.holdout, splits.test)] == [13, 3, 4]
    assert splits.class_names == ("0", "1", "2")
    given = {image.tobytes(): int(label) for image, label in zip(images, labels, strict=True)}
    for part in (splits.train, splits.holdout, splits.test):
        for pixels, label in zip(part.pixels, part.labels, strict=True):
            seen = pixels[0] if len(shape) == 3 else pixels.movedim(0, -1).contiguous()
            assert given.pop(seen.numpy().tobytes()) == label
    assert given == {}
    digest = dataset.digest(tmp_path)
    np.savez(tmp_path / "mine.npz", images=images, labels=(labels + 1) % 3)
    assert dataset.digest(tmp_path) != digest


@pytest.mark.parametrize("content", [None, b"", b"PK\x03\x04", b"no arrays", "others", "pickled", "none"])
def test_the_data_set_says_what_it_cannot_read(content: bytes | str | None, tmp_path: Path) -> None:
    file = tmp_path / "mine.npz"
    if isinstance(content, bytes):
        file.write_bytes(content)
    elif content == "pickled":
        np.savez(file, images=np.array([object()]), labels=np.array([0]))
    elif content == "none":
        np.savez(file, images=np.zeros((0, 8, 8), np.uint8), labels=np.zeros(0, int))
    elif content == "others":
        np.savez(file, pixels=np.zeros(3))
    with pytest.raises(RequestError, match=r"^arrays"):
        arrays(file).load(tmp_path)
