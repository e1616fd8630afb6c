"""A delivered model is looked at as it is: what is read, what is said, what is refused before any work."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from gifthorse.bench import calibration
from gifthorse.bench.calibration import calibrations, threshold
from gifthorse.bench.delivered import Delivered, Delivery, _channels, read_delivery
from gifthorse.bench.portfolio import LADDER, chosen, halvings, inspector, searched
from gifthorse.bench.scan import ScanRequest, scan
from gifthorse.bench.store import Store
from gifthorse.core.classifier import Classifier, predict
from gifthorse.core.configuration import file_digest
from gifthorse.core.errors import NotApplicableError, RequestError
from gifthorse.core.scan import NOT_PROOF, Calibration, Inspection, Scan
from onnx_files import linear_model
from worlds import digits_world, noise_images

CPU = torch.device("cpu")
QUICK = ("neural_cleanse[steps=80,batches=1]",)
CLEAR = 2
"""A seed whose search leaves a margin to the threshold on either side, for other processors: 5.3 and 1.5 at 2.98."""


def weights(model: Classifier) -> dict[str, Tensor]:
    """Return a plain state dict of the network, as other training code writes it."""
    return {name: tensor.clone() for name, tensor in model.network.state_dict().items()}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A benign and a trojaned model of digits, and test images in class folders and in a flat one."""
    root, world = tmp_path_factory.mktemp("delivered"), digits_world()
    torch.save(weights(world.benign), root / "benign.pt")
    torch.save(weights(world.trojan.model), root / "trojan.pt")
    (root / "flat").mkdir()
    images = world.task.holdout
    for number, (pixels, label) in enumerate(zip(images.pixels, images.labels.tolist(), strict=True)):
        (root / f"digits/{label}").mkdir(parents=True, exist_ok=True)
        picture = Image.fromarray(pixels[0].numpy())
        picture.save(root / f"digits/{label}/{number}.png")
        picture.save(root / f"flat/{number}.png")
    return root


def delivery(folder: Path, model: str = "benign.pt", data: str | None = "digits", **options: object) -> Delivery:
    given = {
        "architecture": str(digits_world().task.architecture),
        "data": None if data is None else folder / data,
        **options,
    }
    return Delivery(folder / model, **given)  # type: ignore[arg-type]


def read(asked: Delivery, tmp_path: Path) -> Delivered:
    return read_delivery(asked, tmp_path / "data", tmp_path / "store", CPU)


def test_the_model_is_judged_exactly_as_delivered(folder: Path, tmp_path: Path) -> None:
    """The old way trained on the file first, and judged the trained copy."""
    delivered = read(delivery(folder), tmp_path)
    world = digits_world()
    assert isinstance(delivered.model, Classifier)
    for name, tensor in delivered.model.network.state_dict().items():
        assert torch.equal(tensor, world.benign.network.state_dict()[name]), name
    held = world.task.holdout
    assert delivered.accuracy == float((predict(world.benign, held).argmax(1) == held.labels).float().mean())
    assert not delivered.model.training


def test_all_images_given_are_the_defenders(folder: Path, tmp_path: Path) -> None:
    held = digits_world().task.holdout
    delivered = read(delivery(folder), tmp_path)
    assert len(delivered.images) == len(held)
    assert delivered.images.labels.bincount().tolist() == held.labels.bincount().tolist()
    assert delivered.images.shape == held.shape


def test_nothing_is_written_beside_the_images(folder: Path, tmp_path: Path) -> None:
    before = sorted(folder.rglob("*"))
    read(delivery(folder), tmp_path)
    assert sorted(folder.rglob("*")) == before


def test_a_flat_folder_needs_no_labels(folder: Path, tmp_path: Path) -> None:
    delivered = read(delivery(folder, data="flat", mean=(0.5,), std=(0.5,)), tmp_path)
    assert not delivered.labelled
    assert delivered.accuracy is None
    assert torch.equal(delivered.images.labels, predict(delivered.model, delivered.images).argmax(1))
    assert any("no labels" in remark for remark in delivered.remarks)


@pytest.mark.parametrize(("name", "mean", "std"), [("MNIST's", 0.1307, 0.3081), ("no normalisation", 0.0, 1.0)])
def test_the_usual_normalisation_that_fits_best_is_taken_and_said(
    folder: Path, tmp_path: Path, name: str, mean: float, std: float
) -> None:
    """The first layers are rewritten for another normalisation; the accuracy tells which."""
    network = digits_world().benign.clone().network
    first = next(layer for layer in network.modules() if isinstance(layer, nn.Conv2d))
    norm = next(layer for layer in network.modules() if isinstance(layer, nn.BatchNorm2d))
    assert norm.running_mean is not None
    with torch.no_grad():  # trained on (x - 0.5) / 0.5; shown (x - mean) / std instead, the same up to the border
        norm.running_mean -= (2 * mean - 1) * first.weight.sum((1, 2, 3))
        first.weight.mul_(2 * std)
    torch.save(network.state_dict(), tmp_path / "other.pt")
    asked = replace(delivery(folder), model=tmp_path / "other.pt")
    delivered = read(asked, tmp_path)
    found = delivered.model.normalise
    said = read(replace(asked, mean=(0.9,), std=(0.1,)), tmp_path)
    assert delivered.accuracy is not None
    assert said.accuracy is not None
    assert delivered.accuracy > said.accuracy
    assert any("most accurate" in remark for remark in delivered.remarks)
    assert not any("most accurate" in remark for remark in said.remarks)
    assert said.model.normalise.mean.flatten().tolist() == pytest.approx([0.9])
    assert (found.mean.item(), found.std.item()) == pytest.approx((mean, std))
    assert any(f"{name} was taken" in remark for remark in delivered.remarks)
    assert delivered.accuracy > 0.7  # the border costs some


def test_class_names_come_in_the_order_of_the_models_outputs(folder: Path, tmp_path: Path) -> None:
    names = tmp_path / "classes.txt"
    names.write_text("".join(f"{label}\n" for label in [*range(10)]))
    usual = read(delivery(folder, classes=names), tmp_path)
    names.write_text("".join(f"{label}\n" for label in reversed(range(10))))
    reversed_ = read(delivery(folder, classes=names), tmp_path)
    assert torch.equal(reversed_.images.labels, 9 - usual.images.labels)
    assert reversed_.class_names[0] == "9"
    assert reversed_.accuracy is not None
    assert reversed_.accuracy < 0.2
    assert any("hardly above chance" in remark for remark in reversed_.remarks)


def test_a_planted_class_is_named_and_a_benign_model_is_not_accused(folder: Path, tmp_path: Path) -> None:
    """Efficacy: the smoke profile's BadNets, one search of a few seconds each."""
    store, before = Store(tmp_path / "store"), {name: file_digest(folder / name) for name in ("trojan.pt", "benign.pt")}
    found = scan(ScanRequest(delivery(folder, "trojan.pt"), QUICK, seed=CLEAR), store, tmp_path, CPU)
    clean = scan(ScanRequest(delivery(folder, "benign.pt"), QUICK, seed=CLEAR), store, tmp_path, CPU)
    (inspection,) = found.inspections
    backdoor = digits_world().trojan.backdoor
    assert backdoor is not None
    assert found.suspicious
    assert set(backdoor.goal.classes()) <= set(inspection.suspects)
    assert len(inspection.suspects) <= 2
    assert not clean.suspicious, clean.verdict()
    assert inspection.index is not None
    assert clean.inspections[0].index is not None
    assert inspection.index > 1.5 * clean.inspections[0].index
    assert before == {name: file_digest(folder / name) for name in before}
    assert NOT_PROOF in found.blind_spots
    assert store.load_scan(found.id) == found
    assert Scan.from_json(found.to_json()) == found
    shown = store.scan_evidence(found.id)
    assert shown["0/stamped"].shape == (8, 6, *digits_world().task.train.shape)
    assert shown["0/labels"][0] in inspection.suspects


def test_the_same_scan_is_answered_from_the_store_and_another_is_not(folder: Path, tmp_path: Path) -> None:
    store, quick = Store(tmp_path / "store"), ("neural_cleanse[steps=2,batches=1]",)
    asked = ScanRequest(delivery(folder), quick)
    first = scan(asked, store, tmp_path, CPU)
    assert scan(asked, store, tmp_path, CPU) == first
    again = scan(asked, store, tmp_path, CPU, fresh=True)
    assert again.id == first.id
    assert again.created > first.created
    assert again.inspections[0].index == first.inspections[0].index
    others = [
        replace(asked, seed=1),
        replace(asked, delivery=replace(asked.delivery, model=folder / "trojan.pt")),
        replace(asked, delivery=replace(asked.delivery, mean=(0.5,), std=(0.5,))),
        replace(asked, defenses=("neural_cleanse[steps=3,batches=1]",)),
    ]
    ids = {scan(each, store, tmp_path, CPU).id for each in others}
    assert len(ids | {first.id}) == 5


def test_an_answer_is_of_the_populations_that_it_was_compared_with(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, asked = Store(tmp_path / "store"), ScanRequest(delivery(folder), ("neural_cleanse[steps=2,batches=1]",))
    first = scan(asked, store, tmp_path, CPU)
    monkeypatch.setattr(calibration, "_inspectors", list)
    other = scan(asked, store, tmp_path, CPU)
    assert other.id != first.id
    assert other.inspections[0].calibrations == ()
    assert other.inspections[0].remarks == ("never measured on a population of ours: its own threshold counts",)


def test_no_inspector_leaves_a_mark_on_the_model_that_the_next_one_sees(folder: Path, tmp_path: Path) -> None:
    store, one = Store(tmp_path / "store"), "neural_cleanse[steps=3,batches=1]"
    alone = scan(ScanRequest(delivery(folder), (one,)), store, tmp_path, CPU)
    after = scan(ScanRequest(delivery(folder), ("neuron_inspect", one)), store, tmp_path, CPU)
    assert after.inspections[1].index == alone.inspections[0].index


def test_what_is_skipped_says_why_and_nothing_left_is_an_error(folder: Path, tmp_path: Path) -> None:
    two = tmp_path / "two"
    for label in range(2):
        (two / f"{label}").mkdir(parents=True)
        for number in range(4):
            Image.fromarray(np.full((16, 16), 40 * label + number, np.uint8)).save(two / f"{label}/{number}.png")
    model = digits_world().task.architecture.build((1, 16, 16), 2, 0)
    torch.save(weights(model), tmp_path / "two.pt")
    asked = ScanRequest(replace(delivery(folder), model=tmp_path / "two.pt", data=two), QUICK)
    with pytest.raises(NotApplicableError, match="neural_cleanse: an anomaly index needs at least 3 classes"):
        scan(asked, Store(tmp_path / "store"), tmp_path, CPU)


def test_a_black_box_is_asked_and_not_looked_into(folder: Path, tmp_path: Path) -> None:
    """Neural Cleanse needs gradients and says so; MNTD asks questions, and trains small networks to compare with."""
    pytest.importorskip("onnxruntime")
    images = digits_world().task.train
    flat, labels = images.floats().flatten(1), torch.nn.functional.one_hot(images.labels, 10).float() * 2 - 1
    weight = torch.linalg.lstsq(flat, labels).solution
    (tmp_path / "box.onnx").write_bytes(linear_model(weight.numpy(), images.shape))
    store, box = Store(tmp_path / "store"), replace(delivery(folder), model=tmp_path / "box.onnx")
    delivered = read(box, tmp_path)
    assert delivered.accuracy is not None
    assert delivered.accuracy > 0.8
    with pytest.raises(NotApplicableError, match=r"neural_cleanse: needs the model's layers and gradients"):
        scan(ScanRequest(box, QUICK), store, tmp_path, CPU)
    with pytest.raises(RequestError, match="only 'mntd' can question it"):
        scan(ScanRequest(replace(box, architecture=None)), store, tmp_path, CPU)
    with pytest.raises(RequestError, match=r"is for images of 16×16, not of --size"):
        read(replace(box, size=(20, 20)), tmp_path)
    small = "mntd[shadows=4,validation=2,epochs=1,batch_size=32,classifiers=2,meta_epochs=2,least_accuracy=0]"
    found = scan(ScanRequest(box, (small,)), store, tmp_path, CPU)
    assert found.inspections[0].status == "done"
    assert found.inspections[0].index is not None
    assert found.inspections[0].threshold is not None
    assert found.inspections[0].suspicious == (found.inspections[0].index > found.inspections[0].threshold)
    assert "without gradients" in found.remarks[0]
    (kept,) = (tmp_path / "store/artifacts/prepared").iterdir()
    written = kept.stat().st_mtime_ns
    again = scan(ScanRequest(box, (small,)), store, tmp_path, CPU, fresh=True)
    assert again.inspections[0].index == found.inspections[0].index
    assert kept.stat().st_mtime_ns == written  # what a defender makes is made once


BAD = {
    "no model": ({"model": "nothing.pt"}, "there is no model at"),
    "no images": ({"data": None}, "--data FOLDER or --dataset NAME"),
    "both": ({"dataset": "digits"}, "--data FOLDER or --dataset NAME"),
    "no folder": ({"data": "nowhere"}, "there is no such folder"),
    "no architecture": ({"architecture": None}, "say which they are of"),
    "wrong architecture": ({"architecture": "resnet18[width=4]"}, "does not fit the model"),
    "mean alone": ({"mean": (0.5,)}, "both or neither"),
    "a deviation of nothing": ({"mean": (0.5,), "std": (0.0,)}, "above 0"),
    "too many channels": ({"mean": (0.5, 0.5), "std": (1.0, 1.0)}, "--mean has 2 numbers"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_requests_are_one_sentence_before_any_work(folder: Path, tmp_path: Path, case: str) -> None:
    options, said = BAD[case]
    with pytest.raises(RequestError, match=said):
        scan(ScanRequest(delivery(folder, **options), QUICK), Store(tmp_path / "store"), tmp_path, CPU)  # type: ignore[arg-type]
    assert not (tmp_path / "store/scans").exists()


def test_a_model_of_other_classes_is_refused_with_both_numbers(folder: Path, tmp_path: Path) -> None:
    fewer = tmp_path / "fewer"
    for label in range(7):
        (fewer / str(label)).mkdir(parents=True)
        Image.fromarray(np.zeros((16, 16), np.uint8)).save(fewer / f"{label}/0.png")
    with pytest.raises(RequestError, match="is for 10 classes, the images are of 7"):
        read(replace(delivery(folder), data=fewer), tmp_path)
    names = tmp_path / "names.txt"
    names.write_text("\n".join(map(str, range(10))))
    assert read(replace(delivery(folder), data=fewer, classes=names), tmp_path).images.classes == 10
    names.write_text("a\nb\n")
    with pytest.raises(RequestError, match="names 2 classes; the model knows 10"):
        read(replace(delivery(folder), classes=names), tmp_path)


def test_images_of_another_channel_count_are_refused_in_a_sentence(folder: Path, tmp_path: Path) -> None:
    model = digits_world().task.architecture.build((3, 16, 16), 10, 0)
    torch.save(weights(model), tmp_path / "colour.pt")
    asked = replace(delivery(folder), model=tmp_path / "colour.pt")
    with pytest.raises(RequestError, match="for images of 3 channels, and these have 1"):
        read(replace(asked, data=None, dataset="digits"), tmp_path)
    assert read(asked, tmp_path).images.shape == (3, 16, 16)


def test_a_network_without_convolutions_takes_what_it_is_given() -> None:
    assert _channels(Path("mlp.pt"), {"0.weight": torch.zeros(8, 256)}) is None
    assert _channels(Path("cnn.pt"), {"0.weight": torch.zeros(8, 1, 3, 3)}) == 1
    with pytest.raises(RequestError, match="images of 5 channels"):
        _channels(Path("five.pt"), {"0.weight": torch.zeros(8, 5, 3, 3)})


def test_images_of_several_sizes_ask_for_one(folder: Path, tmp_path: Path) -> None:
    mixed = tmp_path / "mixed"
    mixed.mkdir()
    for number, size in enumerate([(16, 16), (30, 20)]):
        Image.fromarray(np.zeros(size, np.uint8)).save(mixed / f"{number}.png")
    with pytest.raises(RequestError, match=r"2 sizes.*--size 224"):
        read(replace(delivery(folder), data=mixed), tmp_path)
    assert read(replace(delivery(folder), data=mixed, size=(16, 16)), tmp_path).images.shape == (1, 16, 16)


@pytest.mark.parametrize("request_", ["strip", "fine_pruning", "none", "nonsense"])
def test_only_inspectors_are_taken(request_: str) -> None:
    with pytest.raises(RequestError, match=r"inspect a model|nonsense"):
        inspector(request_)


def test_the_portfolio_fits_the_budget_and_a_budget_too_small_names_one_that_is_not() -> None:
    world = digits_world()
    model, images = world.benign, world.task.holdout
    whole, left_out, _ = chosen(model, images, 3600)
    assert [each.name for each in whole] == ["neural_cleanse", "abs"]
    assert not left_out
    with pytest.raises(RequestError, match="--budget"):
        chosen(model, images, 1e-3)


@pytest.mark.parametrize(
    ("classes", "steps", "expected"), [(3, 80, 2), (16, 80, 2), (17, 80, 3), (200, 80, 6), (1000, 40, 3)]
)
def test_more_classes_are_halved_more_often_as_long_as_a_part_keeps_ten_steps(
    classes: int, steps: int, expected: int
) -> None:
    assert halvings(classes, steps) == expected
    assert steps // (expected + 1) >= 10


def test_the_passes_counted_are_those_made() -> None:
    view, seen = digits_world(), []
    model = view.benign.clone()
    model.register_forward_hook(lambda _, inputs, __: seen.append(len(inputs[0])))
    defense = inspector("neural_cleanse[steps=60,batches=1,halvings=2]")
    defense.recover(model, view.task.holdout, 0)  # type: ignore[attr-defined]
    assert sum(seen) <= searched(10, 60, 1) * 1.05
    assert searched(10, *LADDER[0]) > searched(10, *LADDER[-1])


def test_thresholds_let_at_most_a_twentieth_of_our_benign_models_through() -> None:
    found = (Calibration(population="a", benign=tuple(map(float, range(20))), trojaned=()),)
    limit = threshold(found)
    assert limit == 18
    each = Inspection(defense={"name": "x"}, status="done", index=18.5, threshold=limit, calibrations=found)
    assert each.false_alarms() == (1, 20)
    assert each.as_large() == (1, 20)
    assert threshold(()) is None


def test_every_calibration_is_of_a_listed_inspector_and_marked_where_its_settings_differ() -> None:
    usual = inspector("neural_cleanse[steps=80,batches=4,halvings=2]").to_dict()
    metric, found = calibrations(usual)
    assert metric == "defense.aiv_ratio"
    assert found
    assert all(each.exact and len(each.benign) >= 10 for each in found)
    assert not any(each.exact for each in calibrations({**usual, "steps": 10})[1])
    assert calibrations(inspector("tabor").to_dict()) == (None, ())


def test_a_document_from_elsewhere_is_not_taken_for_a_scan(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.write(store.scan_path("x"), b'{"schema": 1}')
    assert store.load_scan("x") is None
    assert list(store.scans()) == []


def test_noise_is_no_accusation(tmp_path: Path) -> None:
    """An untrained model has no planted class."""
    images = noise_images(40, (3, 16, 16), 4)
    root = tmp_path / "noise"
    for number, (pixels, label) in enumerate(zip(images.pixels, images.labels.tolist(), strict=True)):
        (root / str(label)).mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy()).save(root / f"{label}/{number}.png")
    model = digits_world().task.architecture.build((3, 16, 16), 4, 0)
    torch.save(weights(model), tmp_path / "fresh.pt")
    asked = Delivery(tmp_path / "fresh.pt", str(digits_world().task.architecture), data=root)
    found = scan(ScanRequest(asked, ("neural_cleanse[steps=20,batches=1]",)), Store(tmp_path / "store"), tmp_path, CPU)
    assert any("hardly above chance" in remark for remark in found.remarks) or found.accuracy is not None
