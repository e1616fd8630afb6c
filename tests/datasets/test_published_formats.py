"""Data sets as their authors publish them: small files in the original formats."""

import gzip
import hashlib
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gifthorse.core.errors import RequestError
from gifthorse.datasets import DATASETS

LOADED = ("train", "holdout", "test")


def idx(array: np.ndarray) -> bytes:
    """The format of MNIST's files: eight-bit values, and how many there are along each axis."""
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.astype(np.uint8).tobytes()


@pytest.mark.parametrize(
    ("name", "place"),
    [
        pytest.param("mnist", "MNIST/raw/{}-idx{}-ubyte", id="mnist-MNIST"),
        pytest.param("fashion_mnist", "FashionMNIST/raw/{}-idx{}-ubyte", id="fashion_mnist-FashionMNIST"),
        ("mnist", "MNIST/raw/{}-idx{}-ubyte.gz"),
        ("fashion_mnist", "FashionMNIST/raw/{}-idx{}-ubyte.gz"),
        ("mnist", "mnist/{}-idx{}-ubyte.gz"),
        ("mnist", "MNIST/{}.idx{}-ubyte"),
        ("fashion_mnist", "fashion-mnist/{}-idx{}-ubyte.gz"),
        ("mnist", "mnist/{0}-idx{1}-ubyte/{0}-idx{1}-ubyte"),
    ],
)
def test_greys_keep_their_rows_their_labels_and_their_parts(tmp_path: Path, name: str, place: str) -> None:
    """200 training images and 50 test images: their number above left, ten times their label to the right of it."""
    for part, count, shift in (("train", 200, 0), ("t10k", 50, 3)):
        labels = (np.arange(count) + shift) % 10
        pixels = np.zeros((count, 28, 28))
        pixels[:, 0, 0], pixels[:, 0, 1] = np.arange(count), 10 * labels
        for kind, axes, values in (("images", 3, pixels), ("labels", 1, labels)):
            path = tmp_path / place.format(f"{part}-{kind}", axes)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(gzip.compress(idx(values)) if path.suffix == ".gz" else idx(values))
    dataset = DATASETS.build(f"{name}[holdout=40]")
    before = sorted(tmp_path.rglob("*"))
    splits = dataset.load(tmp_path)
    assert sorted(tmp_path.rglob("*")) == before
    assert sorted(dataset.sources(tmp_path)) == [path for path in before if path.is_file()]
    assert [len(getattr(splits, part)) for part in LOADED] == [160, 40, 50]
    assert splits.train.shape == (1, 28, 28)
    assert splits.train.classes == len(splits.class_names) == 10
    assert ("zero" in splits.class_names[0]) == (name == "mnist")
    learning = splits.train.join(splits.holdout)
    assert sorted(learning.pixels[:, 0, 0, 0].tolist()) == list(range(200))
    assert sorted(splits.test.pixels[:, 0, 0, 0].tolist()) == list(range(50))
    for images in (learning, splits.test):
        assert (10 * images.labels).tolist() == images.pixels[:, 0, 0, 1].tolist()
        assert not images.pixels[:, 0, 1:].any()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"not packed",
        gzip.compress(b"")[:-1],
        gzip.compress(idx(np.zeros((9, 28, 28))))[:-9],
        gzip.compress(idx(np.zeros((9, 28, 28))) + b"more"),
        gzip.compress(struct.pack(">HBB3I", 0, 8, 3, 1 << 31, 1 << 31, 28)),
        gzip.compress(struct.pack(">HBB1I", 0, 13, 1, 4) + bytes(16)),
        gzip.compress(idx(np.zeros(9))),
    ],
    ids=["empty", "text", "cut short", "half", "longer", "huge", "floats", "labels"],
)
def test_damaged_packed_digits_are_one_line(tmp_path: Path, content: bytes) -> None:
    where = tmp_path / "MNIST/raw"
    where.mkdir(parents=True)
    for part in ("train", "t10k"):
        (where / f"{part}-images-idx3-ubyte.gz").write_bytes(content)
        (where / f"{part}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(np.zeros(9))))
    with pytest.raises(RequestError, match=r"mnist: cannot read .*MNIST/raw ") as caught:
        DATASETS.build("mnist[holdout=1]").load(tmp_path)
    assert "\n" not in str(caught.value)


def test_missing_digits_are_named(tmp_path: Path) -> None:
    (tmp_path / "MNIST/raw").mkdir(parents=True)
    with pytest.raises(RequestError, match=r"no train-images-idx3-ubyte, nor train-images-idx3-ubyte\.gz"):
        DATASETS.build("mnist").load(tmp_path)


def test_cifar10_keeps_its_colours_its_labels_and_its_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """200 training images in five files, 100 to test: their number is in red, ten times their label in green beside."""
    from torchvision.datasets import CIFAR10

    where = tmp_path / "cifar-10-batches-py"
    where.mkdir()

    def write(file: str, content: dict[str, object]) -> tuple[str, str]:
        (where / file).write_bytes(pickle.dumps(content))
        return file, hashlib.md5((where / file).read_bytes()).hexdigest()

    def batch(file: str, first: int, count: int) -> tuple[str, str]:
        numbers = np.arange(first, first + count)
        pixels = np.zeros((count, 3, 32, 32), np.uint8)
        pixels[:, 0, 0, 0], pixels[:, 1, 0, 1] = numbers, 10 * (numbers % 10)
        return write(file, {"data": pixels.reshape(count, 3072), "labels": (numbers % 10).tolist()})

    monkeypatch.setattr(CIFAR10, "train_list", [batch(f"data_batch_{part + 1}", 40 * part, 40) for part in range(5)])
    monkeypatch.setattr(CIFAR10, "test_list", [batch("test_batch", 5, 100)])
    _, md5 = write("batches.meta", {"label_names": [f"thing {number}" for number in range(10)]})
    monkeypatch.setattr(CIFAR10, "meta", {**CIFAR10.meta, "md5": md5})
    splits = DATASETS.build("cifar10[holdout=40]").load(tmp_path)
    assert [len(getattr(splits, part)) for part in LOADED] == [160, 40, 100]
    assert splits.train.shape == (3, 32, 32)
    assert splits.class_names == tuple(f"thing {number}" for number in range(10))
    learning = splits.train.join(splits.holdout)
    assert sorted(learning.pixels[:, 0, 0, 0].tolist()) == list(range(200))
    assert sorted(splits.test.pixels[:, 0, 0, 0].tolist()) == list(range(5, 105))
    for images in (learning, splits.test):
        assert (10 * images.labels).tolist() == images.pixels[:, 1, 0, 1].tolist()
        assert not images.pixels[:, 2].any()


@pytest.fixture
def cifar100(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """200 training and 100 test images; torchvision is told their checksums."""
    from torchvision.datasets import CIFAR100

    folder = tmp_path / "cifar-100-python"
    folder.mkdir()
    sums = {}
    for name, count in (("train", 200), ("test", 100)):
        pixels = np.zeros((count, 3072), np.uint8)
        pixels[:, 0] = np.arange(count)
        labels = [number % 100 for number in range(count)]
        content = pickle.dumps({"data": pixels, "fine_labels": labels, "coarse_labels": [0] * count})
        (folder / name).write_bytes(content)
        sums[name] = hashlib.md5(content).hexdigest()
    content = pickle.dumps({"fine_label_names": [f"thing {number}" for number in range(100)]})
    (folder / "meta").write_bytes(content)
    monkeypatch.setattr(CIFAR100, "train_list", [["train", sums["train"]]])
    monkeypatch.setattr(CIFAR100, "test_list", [["test", sums["test"]]])
    monkeypatch.setattr(CIFAR100, "meta", {**CIFAR100.meta, "md5": hashlib.md5(content).hexdigest()})
    return tmp_path


def test_cifar100_has_a_hundred_classes_and_disjoint_parts(cifar100: Path) -> None:
    splits = DATASETS.build("cifar100[holdout=50]").load(cifar100)
    assert [len(getattr(splits, part)) for part in LOADED] == [150, 50, 100]
    assert splits.train.shape == (3, 32, 32)
    assert splits.train.classes == len(splits.class_names) == 100
    learning = splits.train.join(splits.holdout)
    numbers = learning.pixels[:, 0, 0, 0]
    assert sorted(numbers.tolist()) == list(range(200))
    assert (numbers % 100).tolist() == learning.labels.tolist()
    assert len(DATASETS.build("cifar100[train=20,holdout=50,test=30]").load(cifar100).train) == 20


def test_cifar100_is_never_unpickled_when_its_checksum_is_wrong(cifar100: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[object, ...]:
            return (Path.touch, (cifar100 / "sprung",))

    (cifar100 / "cifar-100-python" / "train").write_bytes(pickle.dumps(Trap()))
    with pytest.raises(RequestError, match="cifar-100-python"):
        DATASETS.build("cifar100").load(cifar100)
    assert not (cifar100 / "sprung").exists()


@pytest.fixture
def gtsrb(tmp_path: Path) -> Path:
    """Four training signs of each class and 43 test signs, each of the colour of its class."""
    base = tmp_path / "gtsrb"
    final = base / "GTSRB" / "Final_Test" / "Images"
    final.mkdir(parents=True)
    rows = ["Filename;Width;Height;Roi.X1;Roi.Y1;Roi.X2;Roi.Y2;ClassId"]
    for label in range(43):
        folder = base / "GTSRB" / "Training" / f"{label:05}"
        folder.mkdir(parents=True)
        annotations = ["Filename;Width;Height;Roi.X1;Roi.Y1;Roi.X2;Roi.Y2;ClassId"]
        for number in range(4):
            sign = Image.new("RGB", (30 + number, 28), (5 * label, number, 100))
            sign.save(folder / f"00000_{number:05}.ppm")
            annotations.append(f"00000_{number:05}.ppm;{30 + number};28;5;5;25;23;{label}")
        (folder / f"GT-{label:05}.csv").write_text("\n".join(annotations) + "\n")
        Image.new("RGB", (40, 41), (5 * (42 - label), 0, 200)).save(final / f"{label:05}.ppm")
        rows.append(f"{label:05}.ppm;40;41;6;6;34;35;{42 - label}")
    (base / "GT-final_test.csv").write_text("\n".join(rows) + "\n")
    return tmp_path


def test_gtsrb_has_43_classes_and_disjoint_parts(gtsrb: Path) -> None:
    splits = DATASETS.build("gtsrb[holdout=50]").load(gtsrb)
    assert [len(getattr(splits, part)) for part in LOADED] == [122, 50, 43]
    assert splits.train.shape == (3, 32, 32)
    assert splits.train.classes == len(splits.class_names) == 43
    for part in LOADED:
        images = getattr(splits, part)
        assert (images.pixels[:, 0, 16, 16] // 5).tolist() == images.labels.tolist()
    learning = splits.train.join(splits.holdout)
    signs = {tuple(sign) for sign in learning.pixels[:, :2, 5, 5].tolist()}
    assert len(signs) == 172
    assert DATASETS.build("gtsrb[holdout=5,train=20,test=3,size=16]").load(gtsrb).test.shape == (3, 16, 16)


def test_gtsrb_without_one_of_its_folders_is_refused_not_renumbered(gtsrb: Path) -> None:
    folder = gtsrb / "gtsrb" / "GTSRB" / "Training" / "00007"
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()
    with pytest.raises(RequestError, match="42 of 43 classes"):
        DATASETS.build("gtsrb").load(gtsrb)


def test_kaggles_gtsrb_is_told_where_it_is_read(tmp_path: Path) -> None:
    (tmp_path / "gtsrb/Train/0").mkdir(parents=True)
    with pytest.raises(RequestError, match=r"is in Kaggle's layout, .*folder\[path=gtsrb,size=32\]"):
        DATASETS.build("gtsrb").load(tmp_path)


def test_gtsrbs_test_list_may_name_no_other_class(gtsrb: Path) -> None:
    path = gtsrb / "gtsrb" / "GT-final_test.csv"
    path.write_text(path.read_text().replace(";42\n", ";43\n"))
    with pytest.raises(RequestError, match="Final_Test"):
        DATASETS.build("gtsrb").load(gtsrb)


ATTRIBUTES = ["Bald", "Heavy_Makeup", "Male", "Mouth_Slightly_Open", "Smiling", "Young"]


@pytest.fixture
def celeba(tmp_path: Path) -> Path:
    """96 faces, eight of each class and partition in turn, whose colour is their number."""
    base = tmp_path / "celeba"
    (base / "img_align_celeba").mkdir(parents=True)
    rows, partition = ["96", " ".join(ATTRIBUTES) + " "], []
    for number in range(96):
        name = f"{number + 1:06}.jpg"
        Image.new("RGB", (178, 218), (2 * number,) * 3).save(base / "img_align_celeba" / name, quality=95)
        makeup, mouth, smile = number >> 2 & 1, number >> 1 & 1, number & 1
        signs = [0, makeup, 1, mouth, smile, 0]
        rows.append(f"{name} " + " ".join(f"{1 if sign else -1:2}" for sign in signs))
        partition.append(f"{name} {number // 32}")
    (base / "list_attr_celeba.txt").write_text("\n".join(rows) + "\n")
    (base / "list_eval_partition.txt").write_text("\n".join(partition) + "\n")
    return tmp_path


def test_celeba8_has_eight_classes_by_three_attributes(celeba: Path) -> None:
    splits = DATASETS.build("celeba8[train=null,holdout=8,test=null]").load(celeba)
    assert [len(getattr(splits, part)) for part in LOADED] == [24, 8, 32]
    assert splits.train.shape == (3, 64, 64)
    assert splits.train.classes == len(splits.class_names) == 8
    assert splits.class_names[0] == "none"
    assert splits.class_names[1] == "Smiling"
    assert splits.class_names[6] == "Heavy_Makeup+Mouth_Slightly_Open"
    for part, start in (("train", 0), ("holdout", 0), ("test", 64)):
        images = getattr(splits, part)
        numbers = (images.pixels[:, 0, 32, 32] / 2).round().int()
        assert set(numbers.tolist()) <= set(range(start, start + 32))
        assert (numbers % 8).tolist() == images.labels.tolist()
    learning = splits.train.join(splits.holdout)
    assert len(learning.pixels[:, 0, 32, 32].unique()) == 32


@pytest.mark.parametrize(
    ("file", "old", "new", "complaint"),
    [
        ("list_attr_celeba.txt", "96\n", "97\n", "announces 97 images and lists 96"),
        ("list_attr_celeba.txt", "Smiling", "Frowning", "'Smiling' is not in list"),
        ("list_attr_celeba.txt", "000003.jpg", "../../secret.jpg", "line that begins with"),
        ("list_attr_celeba.txt", "000003.jpg -1", "000003.jpg", "line that begins with"),
        ("list_eval_partition.txt", "000003.jpg 0\n", "", "000003.jpg"),
        ("list_eval_partition.txt", "000003.jpg 0\n", "000003.jpg 7\n", "'7'"),
    ],
)
def test_celebas_lists_must_fit_together(celeba: Path, file: str, old: str, new: str, complaint: str) -> None:
    path = celeba / "celeba" / file
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(RequestError, match=complaint) as caught:
        DATASETS.build("celeba8[train=8,holdout=8,test=8]").load(celeba)
    assert "\n" not in str(caught.value)


def test_a_missing_face_is_named(celeba: Path) -> None:
    for path in (celeba / "celeba" / "img_align_celeba").iterdir():
        path.unlink()
    with pytest.raises(RequestError, match=r"cannot read the image .*\.jpg"):
        DATASETS.build("celeba8[train=8,holdout=8,test=8]").load(celeba)


@pytest.mark.parametrize(
    ("name", "folder"), [("cifar100", "cifar-100-python"), ("gtsrb", "gtsrb"), ("celeba8", "celeba")]
)
def test_missing_images_are_one_line_that_says_where_and_how(tmp_path: Path, name: str, folder: str) -> None:
    with pytest.raises(RequestError) as caught:
        DATASETS.build(name).load(tmp_path)
    assert str(tmp_path / folder) in str(caught.value)
    assert "--data-root" in str(caught.value)
    assert "--download" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []
