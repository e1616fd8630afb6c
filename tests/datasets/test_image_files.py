"""Reading image files: what becomes of each kind of picture, and a cache that is used, noticed and rebuilt."""

import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from gifthorse.core.errors import RequestError
from gifthorse.core.progress import listening
from gifthorse.datasets import image_files
from gifthorse.datasets.image_files import CACHE, ImageFiles, Size, read_image


def picture(seed: int, width: int = 40, height: int = 30) -> Image.Image:
    """A smooth colour picture."""
    small = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


@pytest.fixture
def files(tmp_path: Path) -> ImageFiles:
    paths = tuple(tmp_path / f"{number}.png" for number in range(6))
    for number, path in enumerate(paths):
        picture(number).save(path)
    return ImageFiles(paths, torch.arange(6) % 3, classes=3)


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The paths of every file that is really opened."""
    seen: list[Path] = []

    def counting(path: Path, size: Size, keep: float | None, channels: int, max_pixels: int) -> object:
        seen.append(path)
        return read_image(path, size, keep, channels, max_pixels)

    monkeypatch.setattr(image_files, "read_image", counting)
    return seen


@pytest.mark.parametrize(("width", "height"), [(40, 30), (30, 40), (64, 64), (300, 70)])
@pytest.mark.parametrize("resized", [32, 42])
def test_resizing_is_torchvisions_resize_and_centre_crop(tmp_path: Path, width: int, height: int, resized: int) -> None:
    from torchvision.transforms import CenterCrop, Compose, PILToTensor, Resize

    picture(0, width, height).save(tmp_path / "a.png")
    ours = torch.from_numpy(read_image(tmp_path / "a.png", 32, keep=32 / resized).copy()).permute(2, 0, 1)
    theirs = Compose([Resize(resized), CenterCrop(32), PILToTensor()])(Image.open(tmp_path / "a.png"))
    # torchvision rounds the longer side and the crop to whole pixels; another crop differs by 10 levels or more.
    assert (ours.float() - theirs.float()).abs().mean() < 2


def test_stretching_is_torchvisions_resize(tmp_path: Path) -> None:
    from torchvision.transforms.functional import resize

    picture(0).save(tmp_path / "a.png")
    theirs = np.asarray(resize(Image.open(tmp_path / "a.png"), [32, 32]))
    assert np.array_equal(read_image(tmp_path / "a.png", 32, keep=None), theirs)


def grey(image: Image.Image) -> Image.Image:
    return image.convert("L")


def palette(image: Image.Image) -> Image.Image:
    quantized = image.quantize(16)
    quantized.info["transparency"] = bytes(range(16))
    return quantized


def transparent(image: Image.Image) -> Image.Image:
    result = image.convert("RGBA")
    result.putalpha(120)
    return result


def sixteen_bits(image: Image.Image) -> Image.Image:
    return Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)


@pytest.mark.parametrize(
    ("make", "suffix", "expected"),
    [
        (lambda image: image, "png", lambda image: image),
        (grey, "png", grey),
        (palette, "png", lambda image: image.quantize(16)),
        (transparent, "png", lambda image: image),
        (sixteen_bits, "png", grey),
        (lambda image: image.convert("CMYK"), "tif", lambda image: image),
        (lambda image: image.convert("1"), "png", lambda image: image.convert("1")),
        (grey, "pgm", grey),
        (lambda image: image, "ppm", lambda image: image),
        (lambda image: image, "bmp", lambda image: image),
    ],
    ids=["colour", "grey", "palette", "transparent", "16 bits", "cmyk", "1 bit", "pgm", "ppm", "bmp"],
)
def test_every_kind_of_picture_becomes_red_green_and_blue(
    tmp_path: Path,
    make: Callable[[Image.Image], Image.Image],
    suffix: str,
    expected: Callable[[Image.Image], Image.Image],
) -> None:
    original = picture(1, 32, 32)
    path = tmp_path / f"a.{suffix}"
    make(original).save(path)
    read = read_image(path, 32).astype(int)
    assert read.shape == (32, 32, 3)
    assert abs(read - np.asarray(expected(original).convert("RGB"))).max() <= 1


@pytest.mark.parametrize(
    "content",
    [b"", b"no image at all", b"\x89PNG\r\n\x1a\n rubbish", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"],
    ids=["empty", "text", "broken", "a program in PostScript"],
)
def test_a_file_that_is_no_image_is_named_in_one_line(files: ImageFiles, tmp_path: Path, content: bytes) -> None:
    files.paths[4].write_bytes(content)
    with pytest.raises(RequestError, match=r"cannot read the image .*4\.png") as caught:
        files.read(8, tmp_path, "pictures")
    assert "\n" not in str(caught.value)
    assert list((tmp_path / CACHE).iterdir()) == []


def test_a_file_is_opened_as_one_of_a_few_formats_whatever_it_is_called(tmp_path: Path) -> None:
    """Pillow knows dozens, some of which start other programs."""
    picture(0).save(tmp_path / "a.png", "gif")
    with pytest.raises(RequestError, match=r"a\.png"):
        read_image(tmp_path / "a.png", 8)


def test_a_truncated_image_is_named(files: ImageFiles, tmp_path: Path) -> None:
    files.paths[2].write_bytes(files.paths[2].read_bytes()[:-200])
    with pytest.raises(RequestError, match=r"2\.png"):
        files.read(8, tmp_path, "pictures")


def test_a_missing_image_is_named(files: ImageFiles, tmp_path: Path) -> None:
    files.paths[3].unlink()
    with pytest.raises(RequestError, match=r"3\.png"):
        files.read(8, tmp_path, "pictures")


def test_the_images_are_those_of_the_files_in_their_order(files: ImageFiles, tmp_path: Path) -> None:
    images = files.take(torch.tensor([4, 1, 5])).read(8, tmp_path, "pictures")
    assert images.labels.tolist() == [1, 1, 2]
    for pixels, number in zip(images.pixels, (4, 1, 5), strict=True):
        assert np.array_equal(pixels.permute(1, 2, 0), read_image(files.paths[number], 8))


def test_a_second_reading_decodes_nothing(files: ImageFiles, tmp_path: Path, decoded: list[Path]) -> None:
    first = files.read(8, tmp_path, "pictures")
    assert sorted(decoded) == sorted(files.paths)
    second = files.read(8, tmp_path, "pictures")
    assert len(decoded) == 6
    assert torch.equal(first.pixels, second.pixels)


def test_the_images_behave_like_images_in_memory(files: ImageFiles, tmp_path: Path) -> None:
    images = files.read(8, tmp_path, "pictures")
    assert images.shape == (3, 8, 8)
    assert len(images.join(images)) == 12
    assert torch.equal(images.take(images.labels == 1).labels, torch.tensor([1, 1]))
    assert [len(labels) for _, labels in images.batches(4)] == [4, 2]
    assert images.pixels.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(images.to("cpu").floats()[0], images.pixels[0] / 255)


def test_changing_pixels_never_reaches_the_cache(files: ImageFiles, tmp_path: Path) -> None:
    images = files.read(8, tmp_path, "pictures")
    before = images.pixels.clone()
    images.pixels.zero_()
    assert torch.equal(files.read(8, tmp_path, "pictures").pixels, before)


def test_another_size_crop_or_choice_is_another_entry(files: ImageFiles, tmp_path: Path, decoded: list[Path]) -> None:
    files.read(8, tmp_path, "pictures")
    files.read(9, tmp_path, "pictures")
    files.read(8, tmp_path, "pictures", keep=0.5)
    files.read(8, tmp_path, "pictures", keep=None)
    files.read((8, 9), tmp_path, "pictures")
    files.read((9, 8), tmp_path, "pictures")
    files.read(8, tmp_path, "pictures", channels=1)
    files.read((8, 8), tmp_path, "pictures")
    files.take(torch.tensor([1, 0])).read(8, tmp_path, "pictures")
    assert len(decoded) == 44
    assert len(list((tmp_path / CACHE).iterdir())) == 8


def test_a_changed_file_is_read_anew(files: ImageFiles, tmp_path: Path) -> None:
    """By its time of change alone: a bitmap of other colours has the same size."""
    picture(0).save(files.paths[0], "bmp")
    size = files.paths[0].stat().st_size
    before = files.read(8, tmp_path, "pictures").pixels.clone()
    picture(99).save(files.paths[0], "bmp")
    os.utime(files.paths[0], (1, 1))
    assert files.paths[0].stat().st_size == size
    after = files.read(8, tmp_path, "pictures").pixels
    assert not torch.equal(before[0], after[0])
    assert torch.equal(before[1:], after[1:])


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[:-1],
        lambda data: data[:20],
        lambda data: b"",
        lambda data: data + b"\0",
        lambda data: b"\0" * len(data),
        lambda data: data.replace(b"(6, 8, 8, 3)", b"(6, 3, 8, 8)"),
        lambda data: data.replace(b"'|u1'", b"'|i1'"),
        lambda data: data.replace(b"'|u1'", b"'|O8'"),
        lambda data: data.replace(b"'fortran_order': False", b"'fortran_order': True "),
    ],
    ids=["truncated", "header alone", "empty", "longer", "zeros", "shape", "type", "objects", "order"],
)
def test_a_damaged_cache_is_noticed_and_rebuilt(
    files: ImageFiles, tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: Callable[[bytes], bytes]
) -> None:
    before = files.read(8, tmp_path, "pictures").pixels.clone()
    (cache,) = (tmp_path / CACHE).iterdir()
    whole = cache.read_bytes()
    assert damage(whole) != whole
    cache.write_bytes(damage(whole))
    assert torch.equal(files.read(8, tmp_path, "pictures").pixels, before)
    assert "damaged" in caplog.text
    assert cache.read_bytes() == whole


def test_an_interrupted_reading_leaves_no_cache(
    files: ImageFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(image_files, "read_image", interrupt)
        with pytest.raises(KeyboardInterrupt):
            files.read(8, tmp_path, "pictures")
    assert list((tmp_path / CACHE).iterdir()) == []
    assert len(files.read(8, tmp_path, "pictures")) == 6


def test_a_data_folder_that_cannot_be_written_is_read_into_memory(
    files: ImageFiles, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / CACHE).write_text("a file where the folder should be")
    images = files.read(8, tmp_path, "pictures")
    assert np.array_equal(images.pixels[0].permute(1, 2, 0), read_image(files.paths[0], 8))
    assert "in memory" in caplog.text


def test_a_data_folder_that_moves_takes_its_cache_along(
    files: ImageFiles, tmp_path: Path, decoded: list[Path], tmp_path_factory: pytest.TempPathFactory
) -> None:
    files.read(8, tmp_path, "pictures")
    moved = tmp_path_factory.mktemp("elsewhere") / "data"
    tmp_path.rename(moved)
    paths = tuple(moved / path.name for path in files.paths)
    ImageFiles(paths, files.labels, files.classes).read(8, moved, "pictures")
    assert len(decoded) == 6


def test_the_cache_does_not_depend_on_the_number_of_threads(files: ImageFiles, tmp_path: Path) -> None:
    one = files.read(8, tmp_path, "pictures").pixels
    torch.set_num_threads(3)
    try:
        three = files.read(8, tmp_path / "other", "pictures").pixels
    finally:
        torch.set_num_threads(1)
    assert torch.equal(one, three)


def test_reading_announces_its_progress(files: ImageFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_files, "BLOCK", 2)
    heard: list[tuple[str, int, int]] = []
    with listening(lambda *news: heard.append(news)):
        files.read(8, tmp_path, "pictures")
    assert heard == [("reading pictures", done, 3) for done in range(4)]


def flat_png(width: int, height: int) -> bytes:
    """A grey picture of one colour, whose file is far smaller than what it decodes to."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    rows = zlib.compressobj()
    packed = b"".join(rows.compress(bytes(width + 1)) for _ in range(height)) + rows.flush()
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", packed) + chunk(b"IEND", b"")


def test_a_huge_picture_is_refused_before_it_is_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(flat_png(8000, 7000))
    with monkeypatch.context() as patch:
        patch.setattr(Image.Image, "load", lambda _: pytest.fail("it was decoded"))
        with pytest.raises(RequestError, match=r"a\.png .*8000 × 7000 pixels, more than the 50000000"):
            read_image(path, 32)
    picture(0, 100, 50).save(path)
    assert read_image(path, 32, max_pixels=5000).shape == (32, 32, 3)
    with pytest.raises(RequestError, match="more than the 4999"):
        read_image(path, 32, max_pixels=4999)


@pytest.mark.parametrize("keep", [None, 0.5, 1.0])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_huge_jpeg_is_decoded_at_a_fraction_of_its_size(keep: float | None, channels: int, tmp_path: Path) -> None:
    picture(0, 1600, 1200).save(tmp_path / "a.jpg", quality=95)
    whole = read_image(tmp_path / "a.jpg", 32, keep, channels).astype(int)
    small = read_image(tmp_path / "a.jpg", 32, keep, channels, max_pixels=500_000).astype(int)
    assert np.abs(whole - small).mean() < 2
    with pytest.raises(RequestError, match="1600 × 1200 pixels"):
        read_image(tmp_path / "a.jpg", 801, keep, channels, max_pixels=500_000)
