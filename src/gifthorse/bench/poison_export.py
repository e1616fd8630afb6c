"""A poisoned training set as a folder of pictures, for training code outside of this library.

The folder has ``train/`` with one folder of PNGs per class, labelled as the attacker wants them; ``test/`` with the
clean test images; ``stamped/`` with the test images that the attack is judged on, carrying the trigger, under their
true classes; and ``manifest.json``, which says of every training picture what was done to it.
"""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from gifthorse.bench.cell import Cell
from gifthorse.core.classifier import Classifier
from gifthorse.core.errors import RequestError, StoreError
from gifthorse.core.images import Images, to_levels
from gifthorse.core.progress import track
from gifthorse.core.seeds import derive
from gifthorse.core.task import Task
from gifthorse.core.trojan import Backdoor
from gifthorse.metrics.stamped import stamp_for_judging


def export_poisoned(cell: Cell, task: Task, benign: Classifier, folder: Path) -> dict[str, Any]:
    """Write the poisoned training set of a cell into an empty or new folder; returns what the manifest says of it all.

    It is the set that the cell's attack trains on at the data-set level with this seed, in the order of delivery.
    """
    attack = cell.attack
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise RequestError(f"{folder} is not an empty folder; nothing is overwritten")
    delivered, backdoor = attack.poisoned_dataset(task, benign, derive(cell.seed, "classifier"))
    images = delivered.images(task.train)
    names = [_folder_name(label, name, task.classes) for label, name in enumerate(task.class_names)]
    about = {
        "dataset": cell.dataset.to_dict(),
        "attack": attack.to_dict(),
        "goal": backdoor.goal.to_dict(),
        "seed": cell.seed,
        "classes": [{"label": label, "folder": name} for label, name in enumerate(names)],
        "images": len(images),
        "poisoned": int(delivered.stamped.sum()),
    }
    try:
        files = _write(folder / "train", images, names, "training pictures")
        _write(folder / "test", task.test, names, "test pictures")
        _write(folder / "stamped", _stamped(task.test, backdoor), names, "stamped pictures")
        pictures = [
            {"file": file, "label": label, "true_label": true, "source": where, "poisoned": bad}
            for file, label, true, where, bad in zip(
                files,
                images.labels.tolist(),
                task.train.labels[delivered.sources].tolist(),
                delivered.sources.tolist(),
                delivered.stamped.tolist(),
                strict=True,
            )
        ]
        text = json.dumps({**about, "pictures": pictures}, ensure_ascii=False, indent=1)
        (folder / "manifest.json").write_text(text, encoding="utf-8")
    except OSError as error:
        raise StoreError(f"cannot write {error.filename or folder}: {error.strerror or error}") from error
    return about


def _stamped(test: Images, backdoor: Backdoor) -> Images:
    """Return the very images that the judge shows a model to measure attack success."""
    stamped, targets = stamp_for_judging(backdoor, test)
    return Images(to_levels(stamped), test.labels, test.classes).take(targets != test.labels)


def _write(folder: Path, images: Images, names: Sequence[str], label: str) -> list[str]:
    """Write one PNG per image; returns their paths as seen from the folder's parent."""
    from PIL import Image

    if images.shape[0] not in (1, 3):
        raise RequestError(f"a PNG has 1 or 3 channels here, the images have {images.shape[0]}")
    for name in names:
        (folder / name).mkdir(parents=True, exist_ok=True)
    digits = len(str(len(images) - 1))
    pixels: Tensor = images.pixels.cpu().permute(0, 2, 3, 1)
    files = []
    pairs = enumerate(zip(pixels, images.labels.tolist(), strict=True))
    for index, (picture, where) in track(pairs, label, len(images)):
        path = folder / names[where] / f"{index:0{digits}d}.png"
        Image.fromarray(picture.squeeze(2).contiguous().numpy()).save(path)
        files.append(path.relative_to(folder.parent).as_posix())
    return files


def _folder_name(label: int, name: str, classes: int) -> str:
    """Return a name that is safe everywhere and sorts by label, as readers of such folders number classes."""
    plain = re.sub(r"[^A-Za-z0-9_-]+", "_", name).strip("_")
    number = f"{label:0{len(str(classes - 1))}d}"
    return number if plain in ("", number) else f"{number}_{plain}"
