"""Trees of images as people have them: which folders are parts, which are classes, and what lists of classes tell."""

import re
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

import pytest
from PIL import Image

from gifthorse.core.contents import content_digests, looking_once
from gifthorse.core.errors import RequestError
from gifthorse.core.task import Splits
from gifthorse.datasets import DATASETS, folder
from gifthorse.datasets.folder import Folder
from gifthorse.datasets.names import parts_among
from gifthorse.datasets.tree import Tree, read_tree

CLASSES = ("ant", "bee", "cow")
LEARNED, JUDGED = 100, 200
"""Levels of red in pictures to train on and to judge by; those of green are ten times the label."""


def fill(folder: Path, count: int, colour: tuple[int, int] = (0, 0), names: Sequence[str] = ()) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        Image.new("RGB", (8, 8), (*colour, 3 * number)).save(folder / (names[number] if names else f"{number:05}.png"))


def classes(where: Path, count: int, red: int, names: Sequence[str] = CLASSES) -> None:
    for label, name in enumerate(names):
        fill(where / name, count, (red, 10 * label))


def flat(where: Path, count: int, names: Sequence[str] = CLASSES) -> list[tuple[str, str]]:
    """Write ``count`` pictures to judge by, the classes in turn; return their names and classes."""
    for number in range(count):
        where.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (JUDGED, 10 * (number % len(names)), number)).save(where / f"{number:05}.png")
    return [(f"{number:05}.png", names[number % len(names)]) for number in range(count)]


def load(root: Path, request: str = "folder[size=8]") -> Splits:
    return DATASETS.build(request).load(root)


def reds(splits: Splits) -> tuple[set[int], set[int]]:
    """The levels of red in what is learned from, and in what judges; the labels must be those that green tells."""
    for images in (splits.train, splits.holdout, splits.test):
        assert (images.pixels[:, 1, 0, 0] // 10).tolist() == images.labels.tolist()
    learned = splits.train.join(splits.holdout)
    return set(learned.pixels[:, 0, 0, 0].tolist()), set(splits.test.pixels[:, 0, 0, 0].tolist())


SPELLINGS = [
    ("train", "val"),
    ("train", "valid"),
    ("Train", "Validation"),
    ("TRAIN", "TEST"),
    ("training", "testing"),
    ("trainset", "testset"),
    ("training_set", "test_set"),
    ("TrainSet", "DevSet"),
    ("train_images", "val_images"),
    ("train2017", "val2017"),
    ("learn", "eval"),
    ("Training data", "evaluation"),
    ("Final_Training", "Final_Test"),
    ("seg_train", "seg_test"),
    ("animals-train", "animals-dev"),
    ("01_train", "02_test"),
]


@pytest.mark.parametrize(("training", "judging"), SPELLINGS)
def test_parts_are_known_in_any_spelling(tmp_path: Path, training: str, judging: str) -> None:
    classes(tmp_path / training, 6, LEARNED)
    classes(tmp_path / judging, 2, JUDGED)
    splits = load(tmp_path)
    assert splits.class_names == CLASSES
    assert reds(splits) == ({LEARNED}, {JUDGED})
    assert len(splits.test) == 6


@pytest.mark.parametrize(
    "beside", ["Meta", "annotations", "unlabeled", "extra", "seg_pred", "misc", "__MACOSX", ".cache"]
)
def test_what_lies_beside_the_parts_is_no_class(tmp_path: Path, beside: str) -> None:
    classes(tmp_path / "seg_train", 6, LEARNED)
    classes(tmp_path / "seg_test", 2, JUDGED)
    fill(tmp_path / beside, 5)
    for name in ("README.txt", "classes.csv", ".DS_Store"):
        (tmp_path / name).write_text("a,b\nc,d\n")
    splits = load(tmp_path)
    assert splits.class_names == CLASSES
    assert reds(splits) == ({LEARNED}, {JUDGED})


@pytest.mark.parametrize("wrapper", ["archive", "archive/my data", "train"])
def test_a_folder_that_holds_one_folder_stands_for_it(tmp_path: Path, wrapper: str) -> None:
    where = tmp_path / wrapper
    classes(where / "train/train", 6, LEARNED)
    classes(where / "test", 2, JUDGED)
    fill(tmp_path / "__MACOSX", 2)
    (tmp_path / "licence.txt").write_text("free")
    assert reds(load(tmp_path)) == ({LEARNED}, {JUDGED})


def test_of_three_parts_test_judges(tmp_path: Path) -> None:
    for name, red in (("train", LEARNED), ("val", 30), ("test", JUDGED)):
        classes(tmp_path / name, 3, red)
    assert reds(load(tmp_path)) == ({LEARNED}, {JUDGED})


@pytest.mark.parametrize("test", ["Test", "test/images", "test/unknown", "test/test"])
def test_without_classes_to_judge_by_images_to_train_on_are_set_aside(
    tmp_path: Path, test: str, caplog: pytest.LogCaptureFixture
) -> None:
    classes(tmp_path / "Train", 10, LEARNED)
    fill(tmp_path / test, 5)
    splits = load(tmp_path)
    assert splits.class_names == CLASSES
    assert reds(splits) == ({LEARNED}, {LEARNED})
    assert splits.test.labels.bincount().tolist() == [2, 2, 2]
    (line,) = caplog.messages
    assert re.search("no classes are known in [Tt]est/ .*: images of Train/ are set aside", line)


def test_a_copy_in_another_case_counts_once(tmp_path: Path) -> None:
    """As in Kaggle's archive of GTSRB."""
    for training, judging in (("Train", "Test"), ("train", "test")):
        classes(tmp_path / training, 6, LEARNED)
        classes(tmp_path / judging, 2, JUDGED)
    splits = load(tmp_path)
    assert len(splits.train) + len(splits.holdout) == 18
    assert len(splits.test) == 6
    assert len(Folder(size=8).given(tmp_path).pixels) == 24


@pytest.mark.parametrize(
    "folders",
    [
        ("bus", "car", "train"),
        ("bus", "test", "train"),
        ("dev_board", "eval_board", "test_board"),
        ("bullet_train", "car"),
        ("control", "test1", "test2"),
        ("labels", "receipts"),
    ],
)
def test_a_class_may_be_called_like_a_part(tmp_path: Path, folders: tuple[str, ...]) -> None:
    classes(tmp_path, 6, LEARNED, folders)
    assert load(tmp_path).class_names == folders


@pytest.mark.parametrize(
    "folders", [("train", "valid"), ("Test", "Train"), ("meta", "test", "train"), ("test", "valid")]
)
def test_parts_without_classes_are_never_taken_for_classes(tmp_path: Path, folders: tuple[str, ...]) -> None:
    for name in folders:
        fill(tmp_path / name, 6)
    with pytest.raises(
        RequestError, match=r"(neither class folders nor a list|no folder to train on).*classes=\["
    ) as caught:
        load(tmp_path)
    assert "\n" not in str(caught.value)


def test_whoever_names_the_folders_as_classes_decides(tmp_path: Path) -> None:
    classes(tmp_path, 6, LEARNED, ("train", "valid"))
    assert load(tmp_path, "folder[size=8,classes=[train,valid]]").class_names == ("train", "valid")


def test_what_may_be_read_either_way_is_refused(tmp_path: Path) -> None:
    fill(tmp_path / "bus", 6)
    classes(tmp_path / "train", 6, LEARNED, ("diesel", "steam"))
    with pytest.raises(
        RequestError, match=r"class folders in train/ and images in bus/: set path to train/ .*classes="
    ):
        load(tmp_path)
    assert load(tmp_path, "folder[size=8,path=train]").class_names == ("diesel", "steam")
    assert load(tmp_path, "folder[size=8,classes=[bus,train]]").class_names == ("bus", "train")


def test_several_folders_to_train_on_are_refused(tmp_path: Path) -> None:
    for name in ("train", "training_full", "test"):
        classes(tmp_path / name, 3, LEARNED)
    with pytest.raises(RequestError, match="several folders to train on, train/, training_full/"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("judged", "complaint"),
    [
        (("Ant", "bee", "cow"), "only train/ has 'ant', only test/ has 'Ant'$"),
        (("ant", "bee"), "only train/ has 'cow'$"),
        (("ant", "bee", "cow", "dog"), "only test/ has 'dog'$"),
    ],
)
def test_parts_with_other_classes_are_refused_by_name(tmp_path: Path, judged: tuple[str, ...], complaint: str) -> None:
    classes(tmp_path / "train", 6, LEARNED)
    classes(tmp_path / "test", 2, JUDGED, judged)
    with pytest.raises(RequestError, match=complaint):
        load(tmp_path)
    assert load(tmp_path, "folder[size=8,classes=[bee,ant]]" if "ant" in judged else "folder[size=8,classes=[bee,cow]]")


@pytest.mark.parametrize("part", ["train", "test"])
def test_classes_without_images_are_named(tmp_path: Path, part: str) -> None:
    classes(tmp_path / "train", 6, LEARNED)
    classes(tmp_path / "test", 2, JUDGED)
    for name in ("ant", "cow"):
        for path in (tmp_path / part / name).iterdir():
            path.rename(path.with_suffix(".gif"))
    with pytest.raises(RequestError, match=f"no images .*{part} of 'ant', 'cow'$"):
        load(tmp_path)


NUMBERS = [str(number) for number in range(12)]


def kaggle_gtsrb(root: Path, heading: str = "Width,Height,Roi.X1,Roi.Y1,Roi.X2,Roi.Y2,ClassId,Path") -> Path:
    """Kaggle's layout: numbered classes, a flat test folder, lists of everything, pictures of the signs."""
    classes(root / "Train", 4, LEARNED, NUMBERS)
    fill(root / "Meta", 12, names=[f"{number}.png" for number in NUMBERS])
    rows = [f"53,54,6,5,48,49,{label},Test/{name}" for name, label in flat(root / "Test", 24, NUMBERS)]
    (root / "Test.csv").write_text("\n".join([heading, *rows]))
    trained = [f"9,9,1,1,2,2,{label},Train/{label}/{number:05}.png" for label in NUMBERS for number in range(4)]
    (root / "Train.csv").write_text("\n".join([heading, *trained]))
    (root / "Meta.csv").write_text("Path,ClassId,ShapeId\n" + "\n".join(f"Meta/{n}.png,{n},1" for n in NUMBERS))
    return root


def test_kaggles_gtsrb_is_read_with_its_list(tmp_path: Path) -> None:
    splits = load(kaggle_gtsrb(tmp_path / "gtsrb"), "folder[size=8]")
    assert splits.class_names == tuple(NUMBERS)
    assert reds(splits) == ({LEARNED}, {JUDGED})
    assert splits.test.labels.bincount().tolist() == [2] * 12


def test_tiny_imagenet_is_read_with_its_annotations(tmp_path: Path) -> None:
    wnids = ("n01443537", "n01629819", "n01641577")
    for label, wnid in enumerate(wnids):
        fill(tmp_path / "train" / wnid / "images", 5, (LEARNED, 10 * label))
        (tmp_path / "train" / wnid / f"{wnid}_boxes.txt").write_text("00000.png\t0\t0\t62\t62\n")
    rows = [f"{name}\t{wnid}\t0\t32\t44\t62" for name, wnid in flat(tmp_path / "val/images", 12, wnids)]
    (tmp_path / "val/val_annotations.txt").write_text("\n".join(rows) + "\n")
    fill(tmp_path / "test/images", 5)
    (tmp_path / "wnids.txt").write_text("\n".join(wnids))
    (tmp_path / "words.txt").write_text("\n".join(f"{wnid}\tgoldfish, Carassius auratus" for wnid in wnids))
    splits = load(tmp_path)
    assert splits.class_names == wnids
    assert reds(splits) == ({LEARNED}, {JUDGED})
    assert len(splits.test) == 12


LISTS = {
    "test.csv": lambda rows: "filename,label\n" + "".join(f"{name},{label}\n" for name, label in rows),
    "test_labels.csv": lambda rows: "id;class\n" + "".join(f"{name[:-4]};{label}\n" for name, label in rows),
    "labels.csv": lambda rows: "Image_Path,split,Category\n" + "".join(f"/in/Test/{n},test,{c}\n" for n, c in rows),
    "test/labels.tsv": lambda rows: "File\tClass Name\n" + "".join(f"{name}\t{label}\n" for name, label in rows),
    "test/list.txt": lambda rows: "".join(f"{name} {label}\n" for name, label in rows),
    "GT-final_test.csv": lambda rows: "\ufeffPath,Target\r\n" + "".join(f"test\\{n},{c}\r\n" for n, c in rows),
    "y.csv": lambda rows: "label,image,target\n" + "".join(f"{CLASSES.index(c)},{n},{c}\n" for n, c in rows),
}


@pytest.mark.parametrize("place", LISTS)
def test_lists_tell_the_classes_of_a_flat_part(tmp_path: Path, place: str) -> None:
    classes(tmp_path / "train", 6, LEARNED)
    rows = flat(tmp_path / "test", 6)
    (tmp_path / place).write_text(LISTS[place](rows))
    (tmp_path / "sample_submission.csv").write_text("id,label\n" + "".join(f"{name},ant\n" for name, _ in rows))
    assert reds(load(tmp_path)) == ({LEARNED}, {JUDGED})


def test_numbers_in_a_list_are_those_of_the_folders_however_padded(tmp_path: Path) -> None:
    classes(tmp_path / "train", 6, LEARNED, ("00000", "00001", "00002"))
    rows = flat(tmp_path / "test", 6, ("0", "1", "2"))
    (tmp_path / "test.csv").write_text("id,label\n" + "".join(f"{name},{label}\n" for name, label in rows))
    assert reds(load(tmp_path)) == ({LEARNED}, {JUDGED})


def test_a_flat_training_folder_and_a_folder_of_images_alone_may_have_lists(tmp_path: Path) -> None:
    rows = flat(tmp_path / "contest/train", 30)
    fill(tmp_path / "contest/test", 4, names=[f"{number}.png" for number in range(4)])
    text = "id,breed\n" + "".join(f"{name[:-4]},{label}\n" for name, label in rows)
    (tmp_path / "contest/labels.csv").write_text(text)
    splits = load(tmp_path, "folder[path=contest,size=8]")
    assert splits.class_names == CLASSES
    assert reds(splits) == ({JUDGED}, {JUDGED})
    (tmp_path / "contest/labels.csv").rename(tmp_path / "contest/train/labels.csv")
    assert load(tmp_path, "folder[path=contest/train,size=8]").class_names == CLASSES


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda text: text.replace("00003.png,ant\n", ""), "no class for 1 of 6 images in .*test, such as 00003.png"),
        (lambda text: text.replace(",ant", ",fly"), "names classes that are no class folders: 'fly'"),
        (lambda text: text + "00003.png,bee\n", "00003.png has two classes, 'ant' and 'bee'"),
        (lambda text: text.replace("00003.png,ant", "00003.png,"), "no class for 1 of 6"),
    ],
    ids=["image left out", "unknown class", "two classes", "class left out"],
)
def test_a_list_that_does_not_fit_is_refused(tmp_path: Path, change: Callable[[str], str], complaint: str) -> None:
    classes(tmp_path / "train", 6, LEARNED)
    text = "file,label\n" + "".join(f"{name},{label}\n" for name, label in flat(tmp_path / "test", 6))
    assert change(text) != text
    (tmp_path / "test.csv").write_text(change(text))
    with pytest.raises(RequestError, match=complaint) as caught:
        load(tmp_path)
    assert "test.csv" in str(caught.value)


def test_a_bare_name_that_two_parts_have_is_refused(tmp_path: Path) -> None:
    rows = flat(tmp_path / "train", 6)
    flat(tmp_path / "test", 6)
    (tmp_path / "labels.csv").write_text("id,label\n" + "".join(f"{name},{label}\n" for name, label in rows))
    with pytest.raises(RequestError, match=r"labels.csv: .*several images that '00000.png' may mean"):
        load(tmp_path)


def test_a_list_of_the_training_images_tells_nothing_of_others_called_alike(tmp_path: Path) -> None:
    rows = flat(tmp_path / "train", 30)
    fill(tmp_path / "test", 6)
    (tmp_path / "train.csv").write_text("id,label\n" + "".join(f"{name},{label}\n" for name, label in rows))
    splits = load(tmp_path)
    assert len(splits.train) + len(splits.holdout) + len(splits.test) == 30
    assert reds(splits) == ({JUDGED}, {JUDGED})


def test_lists_that_contradict_each_other_are_refused(tmp_path: Path) -> None:
    classes(tmp_path / "train", 6, LEARNED)
    rows = flat(tmp_path / "test", 6)
    (tmp_path / "test.csv").write_text("id,label\n" + "".join(f"{name},{label}\n" for name, label in rows))
    (tmp_path / "test_2.csv").write_text("id,label\n" + "".join(f"{name},bee\n" for name, _ in rows))
    with pytest.raises(RequestError, match=r"test.csv and .*test_2.csv give 00000.png different classes"):
        load(tmp_path)


@pytest.mark.parametrize("content", [b"", b"\0\0,\0\n\0", b"\xff\xfe,\x80\n" * 9, b'"', b"id,label", b"," * 200_000])
def test_any_file_may_lie_beside_the_images(tmp_path: Path, content: bytes) -> None:
    classes(tmp_path / "train", 6, LEARNED)
    fill(tmp_path / "test", 4)
    (tmp_path / "test.csv").write_bytes(content)
    assert reds(load(tmp_path)) == ({LEARNED}, {LEARNED})


def test_another_list_is_another_data_set(tmp_path: Path) -> None:
    """Its content is part of the keys, not only the images'."""
    dataset = DATASETS.build("folder[size=8]")
    kaggle_gtsrb(tmp_path)
    before = dataset.digest(tmp_path)
    (tmp_path / "Meta.csv").unlink()
    assert dataset.digest(tmp_path) == before
    text = (tmp_path / "Test.csv").read_text()
    (tmp_path / "Test.csv").write_text(text.replace(",1,Test/00001", ",2,Test/00001"))
    changed = dataset.digest(tmp_path)
    assert changed != before
    (tmp_path / "Test.csv").unlink()
    sources = dataset.sources(tmp_path)
    without = content_digests(sources)
    (tmp_path / "Test.csv").write_text(text)
    assert dataset.digest(tmp_path) == before
    assert content_digests(sources) != without, "an answer from before would be found"


def test_many_cells_look_at_a_folder_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[Path] = []

    def counting(where: Path, inside: tuple[Path, ...], wanted: Collection[str]) -> Tree:
        looked.append(where)
        return read_tree(where, inside, wanted)

    monkeypatch.setattr(folder, "read_tree", counting)
    classes(tmp_path, 4, LEARNED)
    with looking_once():
        for _ in range(3):
            DATASETS.build("folder[size=8]").digest(tmp_path)
    assert looked == [tmp_path]
    DATASETS.build("folder[size=8]").digest(tmp_path)
    assert len(looked) == 2


@pytest.mark.parametrize(
    "names",
    [NUMBERS, [f"class_{number}" for number in NUMBERS], ["2", "10", "b2", "b10", "cat"], ["n02", "n1", "n3"]],
)
def test_classes_are_in_natural_order(tmp_path: Path, names: list[str]) -> None:
    expected = ["n1", "n02", "n3"] if "n02" in names else names
    classes(tmp_path, 4, LEARNED, expected)
    splits = load(tmp_path)
    assert list(splits.class_names) == expected
    assert reds(splits) == ({LEARNED}, {LEARNED})


def test_all_images_can_be_had_from_any_tree(tmp_path: Path) -> None:
    kaggle_gtsrb(tmp_path / "signs")
    signs = Folder(path="signs", size=8).given(tmp_path)
    assert signs.class_names == tuple(NUMBERS)
    assert signs.labels is not None
    assert signs.labels.bincount().tolist() == [6] * 12
    assert (signs.pixels[:, 1, 0, 0] // 10).tolist() == signs.labels.tolist()
    for name in ("train", "valid"):
        fill(tmp_path / "photos" / name, 6)
    assert Folder(path="photos", size=8).given(tmp_path).labels is None
    (tmp_path / "nothing").mkdir()
    with pytest.raises(RequestError, match="no images"):
        Folder(path="nothing", size=8).given(tmp_path)


def test_the_order_of_words_in_a_name_does_not_matter() -> None:
    assert parts_among(["images_train", "test-images", "set of validation", "cat"]) == {
        "images_train": "training",
        "test-images": "test",
    }
