"""``gifthorse scan`` as a person meets it: the answer, the exit code, the document, the page, what the store shows."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from gifthorse.bench.store import Store
from gifthorse.core.scan import NOT_PROOF, Scan
from terminal import gifthorse
from worlds import digits_world

FINE, WRONG, SUSPICIOUS, NONE_APPLIES = 0, 2, 3, 4
SEARCH, GLANCE = "neural_cleanse[steps=80,batches=1]", "neural_cleanse[steps=3,batches=1]"
HOSTILE = "<img src=x onerror=alert(1)>"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root, world = tmp_path_factory.mktemp("delivered"), digits_world()
    for name, model in (("benign", world.benign), ("trojan", world.trojan.model)):
        torch.save({f"module.{key}": value for key, value in model.network.state_dict().items()}, root / f"{name}.pt")
    images = world.task.holdout
    for number, (pixels, label) in enumerate(zip(images.pixels, images.labels.tolist(), strict=True)):
        (root / f"digits/{label}").mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels[0].numpy()).save(root / f"digits/{label}/{number}.png")
    (root / "names.txt").write_text("".join(f"{label}\n" for label in range(10)))
    return root


def arguments(name: str, inspector: str = GLANCE) -> list[str]:
    asked = ["scan", f"{name}.pt", "--model", str(digits_world().task.architecture), "--data", "digits"]
    return [*asked, "--defense", inspector, "--threads", "1"]


def test_a_trojan_is_named_in_a_sentence_with_evidence_and_exit_code_3(folder: Path) -> None:
    found = gifthorse(*arguments("trojan", SEARCH), "--seed", "2", "--out", "page.html", cwd=folder, check=SUSPICIOUS)
    backdoor = digits_world().trojan.backdoor
    assert backdoor is not None
    (target,) = backdoor.goal.classes()
    assert f"suspicious: class {target} by neural_cleanse" in found.stdout
    assert "accuracy as delivered: 0." in found.stdout
    assert NOT_PROOF in found.stdout
    assert "benign models of our populations are above its threshold" in found.stdout
    assert "module." in found.stdout  # what was taken off is said
    assert "Traceback" not in found.stderr
    page = (folder / "page.html").read_text()
    assert "On your images" in page
    assert page.count('class="picture') > 8
    assert gifthorse("report", "--out", "report.html", cwd=folder).stderr.endswith("(1 scanned model)\n")
    assert "Scanned models" in (folder / "report.html").read_text()
    assert "trojan.pt" in gifthorse("ls", cwd=folder).stdout


def test_a_benign_model_ends_with_0_and_json_is_the_document_alone(folder: Path, tmp_path: Path) -> None:
    kept = ["--store", str(tmp_path)]
    found = gifthorse(*arguments("benign"), "--json", *kept, cwd=folder, check=FINE)
    document = Scan.from_json(found.stdout)
    assert not document.suspicious
    assert document.accuracy is not None
    assert Store(tmp_path).load_scan(document.id) == document
    assert json.loads(found.stdout)["schema"] == 1
    assert gifthorse(*arguments("benign"), "--json", *kept, cwd=folder).stdout == found.stdout
    said = gifthorse(*arguments("benign"), *kept, cwd=folder).stdout
    assert "not suspicious, no class stands out" in said
    start = document.id[:8]
    assert "removed 1 scans" in gifthorse("rm", "--scan", start, "--yes", *kept, cwd=folder).stderr
    assert not list(tmp_path.rglob("*.safetensors"))


def test_the_printed_command_scans_again(folder: Path, tmp_path: Path) -> None:
    kept = ["--store", str(tmp_path), "--json"]
    asked = [*arguments("benign"), "--classes", "names.txt", "--mean", "0.5", "--std", "0.5", "--size", "16"]
    first = Scan.from_json(gifthorse(*asked, *kept, cwd=folder).stdout)
    import shlex

    words = shlex.split(first.command)
    assert words[0] == "gifthorse"
    again = Scan.from_json(gifthorse(*words[1:], *kept, cwd=folder).stdout)
    assert again == first


WRONG_REQUESTS = {
    "nothing there": (["missing.pt", "--model", "small_cnn", "--data", "digits"], "there is no model at missing.pt"),
    "no images": (["benign.pt", "--model", "small_cnn"], "--data FOLDER or --dataset NAME"),
    "no architecture": (["benign.pt", "--data", "digits"], "say which they are of"),
    "no inspector": (
        ["benign.pt", "--model", "small_cnn", "--data", "digits", "--defense", "strip"],
        "inspect a model",
    ),
    "numbers": (["benign.pt", "--model", "small_cnn", "--data", "digits", "--mean", "grey"], "no list of numbers"),
    "size": (["benign.pt", "--model", "small_cnn", "--data", "digits", "--size", "1x2x3"], "no size"),
    "too short": (["benign.pt", "--model", "{own}", "--data", "digits", "--budget", "0.00001"], "too few"),
    "a text": (["names.txt", "--model", "small_cnn", "--data", "digits"], "no format that is known"),
}


@pytest.mark.parametrize("case", WRONG_REQUESTS)
def test_wrong_requests_end_with_2_in_one_sentence(folder: Path, tmp_path: Path, case: str) -> None:
    given, said = WRONG_REQUESTS[case]
    own = [each.format(own=digits_world().task.architecture) for each in given]
    found = gifthorse("scan", *own, "--store", str(tmp_path / "store"), cwd=folder, check=WRONG)
    assert said in found.stderr
    assert len(found.stderr.strip().splitlines()) == 1, found.stderr
    assert not found.stdout


def test_two_classes_are_no_request_error_but_nothing_can_look(folder: Path, tmp_path: Path) -> None:
    for label in range(2):
        (tmp_path / f"two/{label}").mkdir(parents=True)
        Image.fromarray(np.full((16, 16), 90 * label, np.uint8)).save(tmp_path / f"two/{label}/0.png")
    architecture = digits_world().task.architecture
    torch.save(architecture.build((1, 16, 16), 2, 0).network.state_dict(), tmp_path / "two.pt")
    asked = ["scan", "two.pt", "--model", str(architecture), "--data", "two", "--defense", GLANCE]
    found = gifthorse(*asked, cwd=tmp_path, check=NONE_APPLIES)
    assert "no inspector can look at this model" in found.stderr


def test_hostile_class_names_stay_text(folder: Path, tmp_path: Path) -> None:
    from gifthorse.report.scans import scan_page

    found = gifthorse(*arguments("benign"), "--json", "--store", str(tmp_path), cwd=folder, check=None)
    document = Scan.from_json(found.stdout)
    names = [HOSTILE] * len(document.class_names)
    hostile = document.model_copy(update={"class_names": names, "model": {**document.model, "file": HOSTILE}})
    page = scan_page(hostile, Store(tmp_path).scan_evidence(document.id))
    assert HOSTILE not in page
    assert "&lt;img" in page
