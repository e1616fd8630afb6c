"""Hostile inputs by the thousand, each made from its number alone, and what they may cost. Run in a process of its own.

    python tests/fuzz/hostile.py FOLDER KIND=COUNT [KIND=COUNT…]     (KIND:NUMBER for a single one)

It ends with an error at the first input that is neither read nor refused in one line, or takes too long or too much.
"""

import io
import json
import logging
import os
import pickletools
import random
import resource
import shutil
import struct
import sys
import time
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save as to_safetensors

from gifthorse.attacks import ATTACKS
from gifthorse.bench.study import StudyFile, expand
from gifthorse.checkpoints.onnx_graph import external_files, is_onnx
from gifthorse.checkpoints.reading import read_state_dict
from gifthorse.cli.commands import listing
from gifthorse.core.configuration import split_request
from gifthorse.core.errors import RequestError
from gifthorse.datasets import DATASETS
from gifthorse.datasets.tree import image_paths
from gifthorse.defenses import DEFENSES

SECONDS = 3.0
"""Processor time that an input may take; none of those made here should take a tenth of it."""
MEGABYTES = 256
"""Memory that all inputs of a run may take, at their peak, beyond what the libraries have."""

Random = random.Random


def saved(value: object, **options: Any) -> bytes:
    torch.save(value, stream := io.BytesIO(), **options)
    return stream.getvalue()


def zipped(members: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    with zipfile.ZipFile(stream := io.BytesIO(), "w", method) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return stream.getvalue()


def members_of(content: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


STATE = {"conv.weight": torch.ones(2, 3), "conv.bias": torch.ones(2).half(), "n": torch.tensor(3)}
ARRAYS: dict[str, Any] = {"conv.weight": np.arange(6.0).reshape(2, 3).T, "n": np.int64(3)}
WHOLE = {"state_dict": STATE, "epoch": 3, "optimizer": {"state": {0: {"step": torch.ones(1)}}, "param_groups": [{}]}}
np.savez(_npz := io.BytesIO(), allow_pickle=False, **ARRAYS)
SOUND = {
    "archive": [
        saved(STATE),
        saved(WHOLE),
        saved({"a": ARRAYS}),
        zipped(members_of(saved(STATE)), zipfile.ZIP_DEFLATED),
    ],
    "legacy": [saved(value, _use_new_zipfile_serialization=False) for value in (STATE, WHOLE, {"a": ARRAYS})],
    "safetensors": [to_safetensors(STATE)],
    "npz": [_npz.getvalue(), zipped(members_of(_npz.getvalue()), zipfile.ZIP_DEFLATED)],
}
PICKLES = [members_of(each)["archive/data.pkl"] for each in SOUND["archive"][:3]]
PICKLES += [members_of(saved(WHOLE, pickle_protocol=protocol))["archive/data.pkl"] for protocol in (4, 5)]
NUMBERS = (0, 1, 2, 127, 255, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1, 2**62, 2**63, 2**64 - 1)
OPERATIONS = [operation.code.encode("latin-1") for operation in pickletools.opcodes]


def changed(random: Random, content: bytes) -> bytes:
    """Return bytes with some of them changed, removed, repeated, moved, or put in the place of a number."""
    work = bytearray(content)
    for _ in range(random.choice((1, 1, 2, 4, 16))):
        at = random.randrange(len(work) + 1)
        length = random.choice((1, 2, 4, 8, 32, 200))
        match random.randrange(7):
            case 0:
                work[at : at + 1] = bytes([random.randrange(256)])
            case 1:
                del work[at : at + length]
            case 2:
                work[at:at] = work[at : at + length] * random.choice((1, 2, 300))
            case 3:
                place = random.randrange(len(work) + 1)
                work[at : at + length] = work[place : place + length]
            case 4:
                width = random.choice((1, 2, 4, 8))
                number = random.choice(NUMBERS) % 2 ** (8 * width)
                work[at : at + width] = number.to_bytes(width, random.choice(("little", "big")))
            case 5:
                work[at : at + 1] = bytes([work[at] ^ 1 << random.randrange(8)]) if at < len(work) else b"\0"
            case _:
                del work[at + length * 40 :]
        work = work[: 2**20]
    return bytes(work)


def pickled(random: Random) -> bytes:
    """Return a pickle: a sound one that was changed, or operations at random, some of them by the thousand."""
    if random.random() < 0.6:
        return changed(random, random.choice(PICKLES))
    parts = [b"\x80", bytes([random.randrange(6)])]
    names = ["torch._utils _rebuild_tensor_v2", "collections OrderedDict", "_codecs encode", "numpy dtype", "os system"]
    for _ in range(random.randrange(1, 60)):
        kind = random.randrange(8)
        if kind < 3:
            parts.append(random.choice(OPERATIONS) * random.choice((1, 1, 1, 2, 5, 3000)))
        elif kind == 3:
            parts.append(b"c" + random.choice(names).replace(" ", "\n").encode() + b"\n")
        elif kind == 4:
            parts.append(b"X\1\0\0\0a")
        elif kind == 5:
            parts.append(random.choice((b"K", b"h", b"q")) + bytes([random.randrange(4)]))
        elif kind == 6:
            parts.append(
                random.choice((b"J", b"r", b"j", b"X", b"B", b"\x8b"))
                + struct.pack("<I", random.choice(NUMBERS) % 2**32)
            )
        else:
            parts.append(random.choice(PICKLES)[2:-1])
    return b"".join(parts) + b"."


def checkpoint(kind: str) -> Callable[[Random, Path], None]:
    def attempt(random: Random, folder: Path) -> None:
        content = changed(random, random.choice(SOUND[kind]))
        read_file(folder / "a.pt", content)

    return attempt


def read_file(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    for tensor in read_state_dict(path).values():
        assert tensor.device.type == "cpu"
        tensor.double().nan_to_num().sum().item()


def pickle_in_archive(random: Random, folder: Path) -> None:
    members = members_of(random.choice(SOUND["archive"][:3]))
    members["archive/data.pkl"] = pickled(random)
    if random.random() < 0.2:
        name = random.choice(list(members))
        members[random.choice((name, name.upper(), "archive/" + name, "../" + name))] = changed(random, members[name])
    read_file(folder / "a.pt", zipped(members, random.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))))


def crafted_archive(random: Random, folder: Path) -> None:
    """Numbers of the zip format's own records, or what lies around and between them."""
    content = bytearray(random.choice(SOUND["archive"] + SOUND["npz"]))
    marks = [b"PK\1\2", b"PK\3\4", b"PK\5\6", b"PK\6\6", b"PK\6\7"]
    for _ in range(random.randrange(1, 4)):
        mark = random.choice(marks)
        places = [at for at in range(len(content)) if content.startswith(mark, at)]
        if places:
            at = random.choice(places) + random.randrange(4, 48)
            width = random.choice((1, 2, 4, 8))
            content[at : at + width] = (random.choice((*NUMBERS, len(content))) % 2 ** (8 * width)).to_bytes(
                width, "little"
            )
    around = bytes(random.choice(SOUND["archive"]))
    match random.randrange(5):
        case 0:
            content = bytearray(around) + content
        case 1:
            content += around[random.randrange(len(around)) :]
        case 2:
            content += bytes(random.randrange(100))
    read_file(folder / "a.pt", bytes(content))


def crafted_header(random: Random, folder: Path) -> None:
    """A header of safetensors or of npy that says anything."""
    numbers: list[Any] = [0, 1, 2, 6, 24, -1, 2**31, 2**62, 2**64, 1.5, None, "3", True, [], 10**400]
    odd = random.random() < 0.8
    shape = [random.choice(numbers) for _ in range(random.choice((0, 1, 2, 3, 70)))] if odd else [2]
    if random.random() < 0.5:
        entries = {
            random.choice(("a", "b", "__metadata__", "x" * 300)): {
                "dtype": random.choice(("F32", "F32", "F8_E4M3", "BOOL", "I64", "C64", "F4", "X", 3)),
                "shape": shape,
                "data_offsets": [random.choice(numbers), random.choice(numbers)] if odd else [0, 8],
            }
            for _ in range(random.choice((1, 2, 3)) if odd else 1)
        }
        text = json.dumps(entries).encode() if random.random() < 0.9 else b"[" * 10**4
        length = len(text) if random.random() < 0.8 else random.choice(NUMBERS) % 2**64
        read_file(
            folder / "a.safetensors", struct.pack("<Q", length) + text + bytes(random.choice((0, 8, 24)) if odd else 8)
        )
        return
    kinds = ("<f4", ">f8", "|O", "|b1", "<U9", "<c8", "|V9", "<f4,<f4", [("a", "<f4")], "m8", 3)
    fields = {"descr": random.choice(kinds), "fortran_order": random.choice((True, False, 3)), "shape": tuple(shape)}
    header = repr(fields).encode() if random.random() < 0.9 else b"(" * random.choice((50, 9000))
    version = random.choice((1, 1, 2, 3, 9))
    length = len(header) if random.random() < 0.8 else random.choice(NUMBERS) % (2**16 if version == 1 else 2**32)
    npy = b"\x93NUMPY" + bytes([version, 0]) + struct.pack("<H" if version == 1 else "<I", length) + header
    members = {"a.npy": npy + bytes(random.choice((0, 4, 24, 10**6)) if odd else 8)}
    read_file(folder / "a.npz", zipped(members, random.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))))


def onnx(random: Random, folder: Path) -> None:
    def field(number: int, content: bytes) -> bytes:
        return varint(number << 3 | 2) + varint(len(content)) + content

    def varint(value: int) -> bytes:
        return bytes([value & 127 | (128 if value > 127 else 0)]) + (varint(value >> 7) if value > 127 else b"")

    inner = field(13, field(1, b"location") + field(2, b"w.bin"))
    for _ in range(random.choice((1, 3, 300))):
        inner = field(random.choice((1, 5, 6, 7, 10, 11, 15, 22)), inner * random.choice((1, 1, 2)))[: 10**5]
    content = changed(random, b"\x08\x0a" + field(7, field(5, inner)))
    if is_onnx(content):
        try:
            external_files(content)
        except ValueError as error:
            raise RequestError(str(error)[:100].replace("\n", " ")) from error
    read_file(folder / "a.onnx", content)


REQUESTS = [
    "badnets[target=3,trigger_position=bottom_right]",
    "enhanced[base=badnets[alpha=0.5],lr=[0.1,0.2]]",
    'cban[generator_from="a b",mixing=dataset,poison_rate=0.1]',
    "pipeline[defenses=[strip[overlays=4],fine_pruning]]",
    "transformation[transforms=[crop,flip],votes=3]",
    'folder[path="a",size=[20,60],channels=1,classes=["cat","dog"]]',
    "none[trained=schedule[epochs=10,lr=0.01]]",
]
WORDS = [
    "[",
    "]",
    ",",
    "=",
    '"',
    "'",
    "\\",
    "null",
    "true",
    "NaN",
    "1e999",
    "9" * 5000,
    "[" * 2000,
    "é\0\n",
    "..",
    "-1",
    "\ud800",
]


def text(random: Random, lines: list[str]) -> str:
    work = random.choice(lines)
    for _ in range(random.choice((1, 1, 2, 5))):
        at, length = random.randrange(len(work) + 1), random.choice((0, 0, 1, 5, 20))
        other = random.choice(lines)
        start = random.randrange(len(other))
        work = work[:at] + random.choice((random.choice(WORDS), other[start : start + 30])) + work[at + length :]
    return work


def request(random: Random, folder: Path) -> None:
    asked = text(random, REQUESTS)
    for catalogue in (ATTACKS, DEFENSES, DATASETS):
        try:
            str(catalogue.build(asked))
        except RequestError as error:
            one_line(error)
    split_request(asked)


STUDIES = [path.read_text(encoding="utf-8") for path in sorted((Path(__file__).parents[2] / "studies").glob("*.toml"))]
STUDIES += [
    'attack = ["none", "badnets"]\nseed = "0..2"\n[sweep.badnets]\nalpha = "0..1..0.25"\n',
    'seed = "0..999999999999"\n',
    '[sweep.badnets]\npoison_rate = "0..1..0.000000001"\n',
]


def grid(random: Random, folder: Path) -> None:
    content = text(random, STUDIES).encode(errors="replace").decode()  # as a file would have it
    expand(StudyFile.read(content, "a.toml"), LISTING)


def image_folder(random: Random, folder: Path) -> None:
    where = folder / "images"
    shutil.rmtree(where, ignore_errors=True)
    where.mkdir()
    places = [where, where / "cat", where / "dog"]
    for place, number in [(place, number) for place in places[1:] for number in range(5)]:
        place.mkdir(exist_ok=True)
        (place / f"sound{number}.png").write_bytes(PNG)
    for number in range(random.choice((1, 3, 8, 25))):
        names = (
            "cat",
            "dog",
            "train",
            "val",
            "Test",
            "images",
            "a b",
            ".x",
            "é",
            "labels.csv",
            f"{number}",
            "classes.txt",
        )
        path = random.choice(places) / random.choice(names)
        kind = random.randrange(12)
        ending = random.choice((".png", ".jpg", ".csv", ""))
        path = path.with_suffix(path.suffix if kind < 4 else ending)
        if os.path.lexists(path):
            continue
        if kind < 4:
            path.mkdir()
            places.append(path)
        elif kind == 4 and random.random() < 0.3:
            path.symlink_to(random.choice((path, where, where / "cat", Path(".."), Path("/etc"), Path("nowhere"))))
        elif ending in (".png", ".jpg"):
            path.write_bytes(
                random.choice((PNG, PNG, PNG, changed(random, PNG), b"\xff\xd8\xff" + random.randbytes(50)))
            )
        else:
            lines = ["filename,label", "0.png,cat", "1.png,dog", "train/2.png 1", "../0.png,x", "\0,\xff"]
            path.write_text(text(random, ["\n".join(random.choices(lines, k=4))]), "utf-8", errors="replace")
    DATASETS.build('folder[path="images",size=8]').load(folder)
    list(image_paths(where, (where,)))


def _png() -> bytes:
    Image.new("RGB", (9, 9), (9, 90, 200)).save(stream := io.BytesIO(), "png")
    return stream.getvalue()


PNG = _png()
LISTING: Any = listing()
KINDS: dict[str, Callable[[Random, Path], None]] = {
    "archive": checkpoint("archive"),
    "legacy": checkpoint("legacy"),
    "safetensors": checkpoint("safetensors"),
    "npz": checkpoint("npz"),
    "pickle": pickle_in_archive,
    "zip records": crafted_archive,
    "headers": crafted_header,
    "onnx": onnx,
    "request": request,
    "grid file": grid,
    "folder": image_folder,
}


def one_line(error: RequestError) -> None:
    assert str(error), "it is refused without a word"
    assert "\x1b" not in str(error), "the refusal drives the terminal"


def attempt(kind: str, number: int, folder: Path) -> bool:
    """Return whether an input is read; any other error than a refusal is raised."""
    try:
        KINDS[kind](Random(f"{kind} {number}"), folder)
    except RequestError as error:
        one_line(error)
        return False
    return True


def peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main(folder: Path, *asked: str) -> None:
    warnings.simplefilter("ignore")
    logging.disable()
    for part in asked:
        if ":" in part:
            kind, _, single = part.partition(":")
            KINDS[kind](Random(f"{kind} {single}"), folder)
            continue
        kind, _, count = part.partition("=")
        attempt(kind, -1, folder)  # what is imported or kept by the first is not counted
        before, read, slowest = peak(), 0, 0.0
        started = time.process_time()
        for number in range(int(count)):
            begun = time.process_time()
            try:
                read += attempt(kind, number, folder)
            except BaseException:
                print(f"{kind}:{number}", file=sys.stderr)
                raise
            slowest = max(slowest, time.process_time() - begun)
            assert slowest < SECONDS, f"{kind}:{number} takes {slowest:.1f} s"
            assert peak() - before < MEGABYTES, f"{kind}:{number} takes {peak() - before:.0f} MB"
        print(
            json.dumps(
                {
                    "kind": kind,
                    "inputs": int(count),
                    "read": read,
                    "slowest": round(slowest, 2),
                    "megabytes": round(peak() - before),
                    "seconds": round(time.process_time() - started),
                }
            ),
            flush=True,
        )


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
