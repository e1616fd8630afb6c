"""Digests of files and folders: content and names decide, and only what seems changed is read."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from gifthorse.core import contents
from gifthorse.core.configuration import file_digest
from gifthorse.core.contents import content_digest, user_cache


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that were read."""
    seen: list[str] = []

    def reading(path: Path) -> str | None:
        seen.append(path.name)
        return file_digest(path)

    monkeypatch.setattr(contents, "file_digest", reading)
    return seen


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name in ("cat/1.png", "cat/deep/2.png", "dog/3.JPG", "emu/4.png"):
        (tmp_path / "tree" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "tree" / name).write_bytes(name.encode())
    return tmp_path / "tree"


def replace_with_the_same_size_and_time(tree: Path) -> None:
    before = (tree / "cat/1.png").stat()
    (tree / "cat/1.png").write_bytes(b"another 1")
    os.utime(tree / "cat/1.png", ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (tree / "cat/1.png").stat().st_size == before.st_size


def swap(tree: Path) -> None:
    one, other = tree / "cat/1.png", tree / "emu/4.png"
    one.rename(tree / "kept")
    other.rename(one)
    (tree / "kept").rename(other)


@pytest.mark.parametrize(
    "change",
    [
        lambda tree: (tree / "cat/1.png").write_bytes(b"another"),
        replace_with_the_same_size_and_time,
        swap,
        lambda tree: (tree / "dog").rename(tree / "hound"),
        lambda tree: (tree / "cat/deep/2.png").unlink(),
        lambda tree: (tree / "cat/5.png").write_bytes(b"5"),
        lambda tree: (tree / "fox").symlink_to(tree / "emu"),
    ],
    ids=["content", "same size and time", "swapped", "renamed class", "deleted", "added", "linked class"],
)
def test_names_and_contents_of_images_decide(change: Callable[[Path], None], tree: Path) -> None:
    first = content_digest(tree)
    assert first == content_digest(tree)
    change(tree)
    assert content_digest(tree) not in (first, None)


def test_what_a_link_leads_to_decides(tree: Path) -> None:
    outside = tree.parent / "outside"
    outside.mkdir()
    (outside / "5.png").write_bytes(b"5")
    (tree / "fox").symlink_to(outside)
    (tree / "fox/circle").symlink_to(tree)
    first = content_digest(tree)
    (outside / "5.png").write_bytes(b"6")
    assert content_digest(tree) != first


def test_only_what_seems_changed_is_read_and_content_alone_decides(tree: Path, read: list[str]) -> None:
    first = content_digest(tree)
    assert sorted(read) == ["1.png", "2.png", "3.JPG", "4.png"]
    assert content_digest(tree) == first
    assert len(read) == 4
    os.utime(tree / "emu/4.png", (1, 1))
    (tree / "notes.txt").write_text("no image")
    (tree / ".hidden").mkdir()
    (tree / ".hidden/5.png").write_bytes(b"5")
    assert content_digest(tree) == first
    assert read[4:] == ["4.png"]
    assert content_digest(tree) == first
    assert len(read) == 5
    moved = tree.rename(tree.parent / "moved")
    assert content_digest(moved) == first


@pytest.mark.parametrize("damage", [b"", b"{}", b"\xff", b"0\n{}"])
def test_a_damaged_cache_is_as_if_there_were_none(
    damage: bytes, tree: Path, read: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    first = content_digest(tree)
    (kept,) = (user_cache() / "contents").iterdir()
    kept.write_bytes(damage)
    assert content_digest(tree) == first
    assert len(read) == 8
    monkeypatch.setenv("XDG_CACHE_HOME", str(kept))
    assert content_digest(tree) == first


def test_a_file_is_its_content_and_what_is_not_there_is_none(tree: Path) -> None:
    assert content_digest(tree / "cat/1.png") == file_digest(tree / "cat/1.png")
    assert content_digest(tree / "none") is None


def test_a_pattern_stands_for_the_names_that_match(tmp_path: Path) -> None:
    pattern = tmp_path / "*.csv"
    empty = content_digest(pattern)
    (tmp_path / "notes.txt").write_text("no list")
    assert content_digest(pattern) == empty
    (tmp_path / "a.csv").write_text("a")
    one = content_digest(pattern)
    assert one != empty
    (tmp_path / "a.csv").write_text("b")
    assert content_digest(pattern) == one
    assert content_digest(tmp_path / "nowhere/*.csv") == empty
    pattern.write_text("its own name")
    assert content_digest(pattern) == file_digest(pattern)
