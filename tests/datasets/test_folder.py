"""Folders of images: which trees are understood, which are refused, and the papers' class subsets."""

import json
import os
import shutil
import tomllib
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image

from gifthorse.bench.cell import resolve
from gifthorse.bench.runner import Runner
from gifthorse.bench.store import Store
from gifthorse.core.errors import RequestError
from gifthorse.core.images import Images
from gifthorse.core.task import Splits
from gifthorse.datasets import DATASETS
from gifthorse.datasets.class_subsets import TROJANZOO_CLASSES
from gifthorse.datasets.folder import Folder
from gifthorse.datasets.image_files import CACHE, ImageFiles
from gifthorse.datasets.splits import cut, cut_by_class


def fill(folder: Path, count: int, start: int = 0) -> None:
    """Write ``count`` pictures, each of its own grey."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(start, start + count):
        Image.new("RGB", (12, 10), (number % 256, number // 256, len(folder.name))).save(folder / f"{number}.png")


def grow(where: Path, names: list[str], count: int = 5, start: int = 0) -> None:
    for index, name in enumerate(names):
        fill(where / name, count, start + index * count)


def identities(images: Images) -> list[int]:
    """The number that :func:`fill` gave each picture."""
    levels = images.pixels[:, :, 0, 0].long()
    return (levels[:, 0] + 256 * levels[:, 1]).tolist()


def load(request: str, root: Path) -> Splits:
    return DATASETS.build(request).load(root)


def test_a_plain_tree_is_cut_into_disjoint_parts_the_same_ones_every_time(tmp_path: Path) -> None:
    grow(tmp_path / "animals", ["cat", "dog", "emu"], count=10)
    first, second = (load("folder[path=animals,size=8]", tmp_path) for _ in range(2))
    parts = {name: identities(getattr(first, name)) for name in ("train", "holdout", "test")}
    assert {name: len(part) for name, part in parts.items()} == {"train": 21, "holdout": 3, "test": 6}
    assert sorted(parts["train"] + parts["holdout"] + parts["test"]) == list(range(30))
    assert all(identities(getattr(second, name)) == part for name, part in parts.items())
    assert first.class_names == ("cat", "dog", "emu")
    for name, part in parts.items():
        assert [number // 10 for number in part] == getattr(first, name).labels.tolist()


@pytest.mark.parametrize("part", ["val", "test"])
def test_train_beside_val_or_test_is_used_as_it_is(tmp_path: Path, part: str) -> None:
    grow(tmp_path / "animals/train", ["cat", "dog"], count=10)
    grow(tmp_path / "animals" / part, ["cat", "dog"], count=3, start=20)
    splits = load("folder[path=animals,size=8]", tmp_path)
    assert sorted(identities(splits.test)) == list(range(20, 26))
    assert sorted(identities(splits.train) + identities(splits.holdout)) == list(range(20))
    assert len(splits.holdout) == 2


def test_an_unlabelled_test_folder_leaves_val_to_judge(tmp_path: Path) -> None:
    grow(tmp_path / "train", ["cat", "dog"])
    grow(tmp_path / "val", ["cat", "dog"], count=2, start=10)
    fill(tmp_path / "test", 4, start=30)
    assert sorted(identities(load("folder[size=8]", tmp_path).test)) == [10, 11, 12, 13]


def test_a_class_may_be_called_train_or_test(tmp_path: Path) -> None:
    grow(tmp_path, ["bus", "test", "train"])
    assert load("folder[size=8]", tmp_path).class_names == ("bus", "test", "train")
    fill(tmp_path / "train/steam", 4)
    assert load("folder[size=8]", tmp_path).class_names == ("bus", "test", "train")


def test_train_alone_is_cut(tmp_path: Path) -> None:
    grow(tmp_path / "train", ["cat", "dog"])
    fill(tmp_path / "test", 3)
    assert load("folder[size=8]", tmp_path).class_names == ("cat", "dog")


def test_images_may_lie_deeper_and_hidden_and_other_files_are_left_out(tmp_path: Path) -> None:
    fill(tmp_path / "cat/images/left", 4)
    fill(tmp_path / "cat/.thumbnails", 3, start=50)
    fill(tmp_path / "dog", 4, start=10)
    fill(tmp_path / ".trash/emu", 4, start=60)
    (tmp_path / "dog" / "notes.txt").write_text("good dog")
    (tmp_path / "dog" / "._1.png").write_text("what macOS leaves behind")
    (tmp_path / "dog" / "10.png").rename(tmp_path / "dog" / "10.PNG")
    splits = load("folder[size=8,holdout=2,test=2]", tmp_path)
    everything = splits.train.join(splits.holdout).join(splits.test)
    assert sorted(identities(everything)) == [0, 1, 2, 3, 10, 11, 12, 13]


def test_sample_subsets_are_nested_and_move_no_image(tmp_path: Path) -> None:
    grow(tmp_path, ["cat", "dog"], count=10)
    few, many = (load(f"folder[size=8,train={train},holdout=3,test=4]", tmp_path) for train in (5, 10))
    assert identities(many.train)[:5] == identities(few.train)
    assert identities(many.holdout) == identities(few.holdout)
    assert identities(many.test) == identities(few.test)


def test_only_what_was_chosen_is_opened(tmp_path: Path) -> None:
    grow(tmp_path, ["cat", "dog"], count=10)
    whole = load("folder[size=8,train=5,holdout=2,test=2]", tmp_path)
    chosen = {*identities(whole.train), *identities(whole.holdout), *identities(whole.test)}
    for path in tmp_path.glob("*/*.png"):
        if int(path.stem) not in chosen:
            path.write_text("not an image")
    load("folder[size=9,train=5,holdout=2,test=2]", tmp_path)


def test_class_subsets(tmp_path: Path) -> None:
    grow(tmp_path, ["ant", "bee", "cat", "dog"])
    assert load("folder[size=8,classes=2]", tmp_path).class_names == ("ant", "bee")
    splits = load('folder[size=8,classes=["dog","ant"]]', tmp_path)
    assert splits.class_names == ("dog", "ant")
    assert {
        number // 5: label for number, label in zip(identities(splits.train), splits.train.labels, strict=True)
    } == {
        0: 1,
        3: 0,
    }


@pytest.mark.parametrize(
    ("request_", "complaint"),
    [
        ("folder[path=nowhere]", "there is no folder .*nowhere; point --data-root"),
        ("folder[path=cat]", "has no class folders"),
        ("folder[classes=5]", "classes=5, but . has 3"),
        ('folder[classes=["cat","cow"]]', "there is no 'cow'; found: cat, dog, empty"),
        ('folder[classes=["cat","cat"]]', "each class must be named, and once"),
        ('folder[classes=["cat"]]', r"1 class \('cat'\); two or more"),
        ("folder[classes=[]]", "each class must be named"),
        ("folder", "no images .* of .empty."),
        ("folder[classes=2,test=20]", "too few for test=20"),
        ("folder[size=4]", "size=4"),
        ("folder[classes=1]", "classes=1"),
        ('folder[path=""]', "path"),
        ("imagenet10", "imagenet10: there is no folder .*imagenet10; .* or set path"),
        ("imagenet10[path=.]", "imagenet10 needs 10 class folders; '.' has 3"),
        ("vggface2_20", "there is no folder .*vggface2; "),
        ("vggface2_100[path=.]", "needs 100"),
        ("mini_imagenet[path=.]", "needs 100"),
    ],
)
def test_a_wrong_request_is_one_clear_line(tmp_path: Path, request_: str, complaint: str) -> None:
    grow(tmp_path, ["cat", "dog"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(RequestError, match=complaint) as caught:
        load(request_, tmp_path)
    assert "\n" not in str(caught.value)


def test_parts_with_other_classes_are_refused(tmp_path: Path) -> None:
    grow(tmp_path / "train", ["cat", "dog"])
    grow(tmp_path / "val", ["cat", "dog", "emu"])
    with pytest.raises(RequestError, match=r"train/ and val/ in .* differ: only val/ has 'emu'$"):
        load("folder[size=8]", tmp_path)


def test_an_absolute_path_is_read_and_cached_under_the_data_root(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    grow(elsewhere, ["cat", "dog"])
    load(f'folder[path="{elsewhere}",size=8]', tmp_path)
    assert {path.name for path in elsewhere.iterdir()} == {"cat", "dog"}
    assert len(list((tmp_path / CACHE).iterdir())) == 3


def test_links_inside_are_followed_and_those_that_lead_out_are_refused(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    private = tmp_path_factory.mktemp("private")
    fill(private, 1)
    grow(tmp_path / "whole", ["cat", "dog", "emu"])
    subset = tmp_path / "subset"
    subset.mkdir()
    for name in ("cat", "emu"):
        (subset / name).symlink_to(tmp_path / "whole" / name)
    assert load("folder[path=subset,size=8]", tmp_path).class_names == ("cat", "emu")
    for target in (private / "0.png", tmp_path / "gone.png"):
        link = tmp_path / "whole/cat/link.png"
        link.symlink_to(target)
        with pytest.raises(RequestError, match=r"link\.png leads to .* missing or outside"):
            load("folder[path=subset,size=8]", tmp_path)
        link.unlink()


def test_a_link_in_a_circle_ends_and_a_pipe_is_not_opened(tmp_path: Path) -> None:
    grow(tmp_path, ["cat", "dog"])
    (tmp_path / "cat/round").symlink_to(tmp_path / "cat")
    os.mkfifo(tmp_path / "cat/pipe.png")
    splits = load("folder[size=8]", tmp_path)
    assert len(splits.train) + len(splits.holdout) + len(splits.test) == 10


@pytest.mark.parametrize("place", ["cat/5.png", "cat", "self", "loop.csv", "cat/deep/round.png", "."])
def test_a_link_to_itself_is_refused_in_one_line(place: str, tmp_path: Path) -> None:
    root = tmp_path / "root"
    grow(root, ["cat", "dog"])
    (root / "cat/deep").mkdir()
    link = root / place
    if place == ".":
        link = tmp_path / "link"
    elif place == "cat":
        link = root / "cat2"
    link.symlink_to(link)
    path = link if place == "." else root
    with pytest.raises(RequestError, match="leads in a circle") as caught:
        load(f'folder[path="{path}"]', tmp_path)
    assert "\n" not in str(caught.value)
    shutil.rmtree(root)
    if place == "cat/5.png":  # two links that lead to each other, in a folder without a picture
        grow(root, ["dog", "owl"])
        (root / "cat").mkdir()
        (root / "cat/a.png").symlink_to(root / "cat/b.png")
        (root / "cat/b.png").symlink_to(root / "cat/a.png")
        with pytest.raises(RequestError, match="leads in a circle"):
            load(f'folder[path="{root}"]', tmp_path)


def test_how_many_pixels_are_decoded_is_a_field(tmp_path: Path) -> None:
    grow(tmp_path, ["cat", "dog"])
    with pytest.raises(RequestError, match="pixels, more than the 3 that are decoded"):
        load("folder[max_pixels=3]", tmp_path)


@pytest.mark.parametrize(
    ("name", "classes", "size"),
    [("imagenet10", 10, 224), ("vggface2_20", 20, 224), ("vggface2_100", 100, 64), ("mini_imagenet", 100, 64)],
)
def test_class_subsets_have_the_papers_classes_and_sizes(tmp_path: Path, name: str, classes: int, size: int) -> None:
    dataset = DATASETS.build(name)
    where = tmp_path / str(dataset.to_dict()["path"])
    grow(where, [f"n{number:04}" for number in range(classes + 30)], count=3)
    first, second = (dataset.load(tmp_path) for _ in range(2))
    assert first.train.classes == len(first.class_names) == classes
    assert first.train.shape == (3, size, size)
    assert first.class_names == second.class_names == tuple(sorted(first.class_names))
    assert first.class_names != tuple(f"n{number:04}" for number in range(classes))


def test_imagenet10_takes_trojanzoos_classes_where_they_are(tmp_path: Path) -> None:
    grow(tmp_path / "imagenet10", [*TROJANZOO_CLASSES, "n00000001", "n99999999"], count=3)
    assert load("imagenet10[size=8]", tmp_path).class_names == TROJANZOO_CLASSES


def test_parts_published_with_other_classes_are_one_tree(tmp_path: Path) -> None:
    """VGGFace2 and Mini-ImageNet: nobody in train/ is in test/."""
    for part, start in (("train", 0), ("val", 64), ("test", 80)):
        names = [f"n{number:04}" for number in range(start, {0: 64, 64: 80, 80: 100}[start])]
        grow(tmp_path / "mini_imagenet" / part, names, count=4, start=4 * start)
    splits = load("mini_imagenet[size=8]", tmp_path)
    assert len(splits.class_names) == 100
    everything = splits.train.join(splits.holdout).join(splits.test)
    assert sorted(identities(everything)) == list(range(400))
    assert [number // 4 for number in identities(everything)] == everything.labels.tolist()


def test_the_faces_middle_is_kept(tmp_path: Path) -> None:
    for index in range(100):
        face = np.zeros((84, 84, 3), np.uint8)
        face[10:74, 10:74] = 200
        (tmp_path / f"vggface2/n{index:03}").mkdir(parents=True)
        for number in range(3):
            Image.fromarray(face).save(tmp_path / f"vggface2/n{index:03}/{number}.png")
    assert load("vggface2_100", tmp_path).test.pixels.unique().tolist() == [200]


def test_all_images_of_a_folder_can_be_had_with_or_without_classes(tmp_path: Path) -> None:
    grow(tmp_path / "pets/train", ["cat", "dog"], count=4)
    grow(tmp_path / "pets/val", ["cat", "dog"], count=2, start=10)
    fill(tmp_path / "flat", 7)
    tree = Folder(path="pets", size=8).given(tmp_path)
    assert tree.labels is not None
    assert tree.class_names == ("cat", "dog")
    assert sorted(tree.pixels[:, 0, 0, 0].tolist()) == [*range(8), *range(10, 14)]
    assert tree.labels.bincount().tolist() == [6, 6]
    flat = Folder(path="flat", size=8).given(tmp_path)
    assert flat.labels is None
    assert flat.class_names == ()
    assert flat.pixels.shape == (7, 3, 8, 8)


sizes = st.integers(1, 12)


@given(st.integers(3, 40), sizes, sizes, sizes)
def test_any_cut_is_disjoint_or_refused(count: int, train: int, holdout: int, test: int) -> None:
    files = ImageFiles(tuple(Path(str(number)) for number in range(count)), torch.zeros(count, dtype=torch.int64), 2)
    try:
        parts = cut(files, {"test": test, "holdout": holdout, "train": train}, "any")
    except RequestError:
        assert train + holdout + test > count
    else:
        chosen = [path for part in parts.values() for path in part.paths]
        assert len(set(chosen)) == len(chosen) == train + holdout + test


counts = st.lists(st.integers(1, 30), min_size=2, max_size=6)
some = st.none() | st.integers(1, 40)


@example([30, 3], 22, 2, None)
@given(counts, some, st.integers(1, 40), some)
def test_any_cut_by_class_is_disjoint_exact_and_even_or_refused(
    counts: list[int], test: int | None, holdout: int, train: int | None
) -> None:
    classes, count = len(counts), sum(counts)
    labels = torch.arange(classes).repeat_interleave(torch.tensor(counts))
    files = ImageFiles(tuple(Path(str(number)) for number in range(count)), labels, classes)
    names = [f"class {label}" for label in range(classes)]
    judged = test or count // 5
    sizes = {"test": judged, "holdout": holdout, "train": train}
    wanted = judged + holdout + max(train or 0, classes)
    try:
        parts = cut_by_class(files, sizes, names, "any")
    except RequestError as error:
        assert min(counts) < 2 or min(judged, train or classes) < classes or wanted > count
        assert all(f"'class {label}' ({n})" in str(error) for label, n in enumerate(counts) if n < 2)
        return
    chosen = [path for part in parts.values() for path in part.paths]
    assert len(set(chosen)) == len(chosen)
    assert len(parts["test"]) == judged
    assert len(parts["holdout"]) == holdout
    assert len(parts["train"]) == (count - judged - holdout if train is None else train)
    had = {name: part.labels.bincount(minlength=classes) for name, part in parts.items()}
    assert min(int(had["test"].min()), int(had["train"].min())) >= 1
    plenty = torch.tensor(counts) > 2
    if holdout >= plenty.sum():
        assert had["holdout"][plenty].min() >= 1
    for part in parts.values():
        for path, label in zip(part.paths, part.labels, strict=True):
            assert labels[int(str(path))] == label


@pytest.mark.parametrize(("sizes", "most"), [((300, 60, 60, 40), 1.0), ((500, 7, 100), 1.5)])
def test_parts_have_the_classes_in_their_proportions(sizes: tuple[int, ...], most: float) -> None:
    count = torch.tensor(sizes)
    labels = torch.arange(len(sizes)).repeat_interleave(count)
    files = ImageFiles(tuple(map(Path, map(str, range(len(labels))))), labels, len(sizes))
    parts = cut_by_class(files, {"test": 80, "holdout": 40, "train": 200}, list("abcd"[: len(sizes)]), "any")
    for part in parts.values():
        even = count * len(part) / len(labels)
        assert (part.labels.bincount() - even).abs().max() <= most


@pytest.mark.parametrize(
    ("counts", "request_", "complaint"),
    [
        ((9, 1, 9, 1), "folder[size=8]", r"too few images for one in test and train, .*: '1' \(1\), '3' \(1\)$"),
        ((9, 9, 9), "folder[size=8,test=2]", "test=2 is too few for an image of each of the 3 classes"),
        ((9, 9, 9), "folder[size=8,train=2]", "train=2 is too few for an image of each of the 3 classes"),
        ((2, 2, 2), "folder[size=8]", "6 images to cut from, too few for test=3, holdout=1 and a train image of each"),
        ((9, 9, 9), "folder[size=8,test=20,holdout=5]", "27 images to cut from, too few for test=20, holdout=5"),
    ],
)
def test_every_class_is_trained_on_and_judged_or_named(
    tmp_path: Path, counts: tuple[int, ...], request_: str, complaint: str
) -> None:
    for label, count in enumerate(counts):
        fill(tmp_path / str(label), count)
    with pytest.raises(RequestError, match=complaint):
        load(request_, tmp_path)


def test_a_small_class_has_no_image_for_defenders(tmp_path: Path) -> None:
    for label, count in enumerate((30, 2, 3)):
        fill(tmp_path / str(label), count)
    splits = load("folder[size=8]", tmp_path)
    assert splits.train.labels.bincount().tolist()[1:] == [1, 1]
    assert splits.holdout.labels.bincount(minlength=3).tolist()[1:] == [0, 1]
    assert splits.test.labels.bincount().tolist()[1:] == [1, 1]


def test_images_may_be_grey_and_wider_than_high(tmp_path: Path) -> None:
    for name, left in (("cat", 0), ("dog", 60)):
        (tmp_path / name).mkdir()
        for number in range(6):
            image = Image.new("L", (180, 90), 20 + number)
            image.paste(200, (left, 15, left + 60, 75))
            image.save(tmp_path / name / f"{number}.png")
    request = "folder[size=[20,60],channels=1]"
    splits = load(request, tmp_path)
    assert splits.train.shape == (1, 20, 60)
    for images in (splits.train, splits.test):
        lit = (images.pixels[:, 0, 10] > 100).float()
        assert ((lit * torch.arange(60)).argmax(1) > 30).long().tolist() == images.labels.tolist()
        assert lit.sum(1).tolist() == [20] * len(images)
    colour = load("folder[size=[20,60]]", tmp_path)
    assert colour.train.shape == (3, 20, 60)
    assert torch.equal(colour.train.pixels[:, 1:2], splits.train.pixels)
    dataset = DATASETS.build(request)
    assert DATASETS.build(str(dataset)) == DATASETS.build(tomllib.loads(as_toml(dataset.to_dict()))) == dataset
    assert str(DATASETS.build("folder[size=[24,24]]")) == "folder[size=24]"


def as_toml(values: dict[str, object]) -> str:
    """The fields that are set, as a grid file has them."""
    return "\n".join(f"{key} = {json.dumps(value)}" for key, value in values.items() if value is not None)


@pytest.mark.parametrize("size", ["7", "[20]", "[20,4]", "[20,30,3]", "[2000,20]", "1025", "wide", "20.5", "true"])
def test_a_wrong_size_is_one_sentence(size: str) -> None:
    with pytest.raises(RequestError, match=r"^folder: size=[^;]*: should be a side of 8 to 1024 pixels, or [^;]*$"):
        DATASETS.build(f"folder[size={size}]")


def test_a_folder_goes_all_the_way_to_a_record(tmp_path: Path) -> None:
    grow(tmp_path / "data" / "animals", ["cat", "dog", "emu"], count=40)
    runner = Runner(Store(tmp_path / "runs"), tmp_path / "data", torch.device("cpu"))
    for attack, defense, shape in (
        ("badnets[mixing=dataset]", "fine_pruning[epochs=1]", "size=16"),
        ("badnets", "strip[overlays=4]", "size=[12,20],channels=1"),
    ):
        cell = resolve(
            dataset=f"folder[path=animals,{shape},holdout=40]",
            model="small_cnn",
            training="standard[epochs=1]",
            attack=attack,
            defense=defense,
            profile="smoke",
        )
        record = runner.run(cell)
        assert (record.status, record.reason) == ("done", None)
        assert record.dataset["path"] == "animals"


def test_real_photographs(real_data: Path, tmp_path: Path) -> None:
    photographs = (real_data / "imagenette").resolve()
    if not (photographs / "train").is_dir():
        pytest.skip(f"no Imagenette under {real_data}")
    splits = load(f'folder[path="{photographs}",size=48]', tmp_path)
    assert splits.train.classes == len(splits.class_names) == 10
    assert splits.train.shape == (3, 48, 48)
    assert 90 < splits.train.pixels.float().mean() < 140
    for part in ("train", "val"):
        files = [path for path in (photographs / part).glob("*/*") if not path.name.startswith(".")]
        found = len(splits.test) if part == "val" else len(splits.train) + len(splits.holdout)
        assert found == len(files)
    ten = load(f'imagenet10[path="{photographs}",size=48,train=200]', tmp_path)
    assert len(ten.train) == 200
    assert torch.equal(ten.test.labels.bincount(), splits.test.labels.bincount())
