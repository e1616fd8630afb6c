"""Zip archives that nobody vouches for: read by one reader alone, and never beyond what they were checked for."""

import zipfile
from pathlib import Path
from typing import IO, BinaryIO

import numpy as np
import torch
from torch import Tensor

from gifthorse.checkpoints.limits import SMALL, Limits
from gifthorse.core.errors import RequestError

_END, _END_64, _LOCATOR_64, _MEMBER = b"PK\x05\x06", b"PK\x06\x06", b"PK\x06\x07", b"PK\x01\x02"
_END_BYTES, _LOCATOR_BYTES, _END_64_BYTES = 22, 20, 56
_LONGEST_COMMENT = 2**16
_IN_WIDE = 2**32 - 1  # stands for a number that only the record of 64 bits has
_DIRECTORY_BYTES = 1024  # a member's, more than names of tensors take
_BLOCK = 2**20


def read_bytes(file: IO[bytes], length: int) -> Tensor:
    """Return so many of the bytes that a file has next, ``uint8``; ``ValueError`` where it ends before."""
    content = torch.empty(length, dtype=torch.uint8)
    into, at = content.numpy(), 0
    # In blocks: what is asked for of an archive is unpacked before it is cut to what its directory says.
    while at < length and (block := file.read(min(_BLOCK, length - at))):
        into[at : at + len(block)] = np.frombuffer(block, np.uint8)
        at += len(block)
    if at < length:
        raise ValueError("it claims more bytes than it holds")
    return content


class Archive:
    """The members of a zip archive whose sizes have been found sensible, by what its directory says of them.

    Raises :class:`RequestError` where it unpacks to more than ``max_bytes``, or to far more than its size, where
    members overlap, are encrypted, packed in unusual ways or too many, or where another program might find another
    directory in it.
    """

    def __init__(self, path: Path, file: BinaryIO, max_bytes: int, limits: Limits):
        self.path = path
        size = file.seek(0, 2)
        start = _check_directory(path, file, size, limits)
        self._archive = zipfile.ZipFile(file)
        members = self._archive.infolist()
        self.unpacked = sum(member.file_size for member in members)
        """Bytes of all members."""
        if self.unpacked > max_bytes:
            raise RequestError(f"{path} unpacks to {self.unpacked} bytes, more than the {max_bytes} that are allowed")
        if self.unpacked > max(limits.ratio * size, SMALL):
            raise RequestError(
                f"{path} unpacks to {self.unpacked} bytes, more than {limits.ratio:g} times its size: that is no "
                "checkpoint, unless limits=Limits(ratio=…) says otherwise"
            )
        if any(member.flag_bits & 1 for member in members):
            raise RequestError(f"{path} is an encrypted zip archive; unpack it first")
        if any(member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) for member in members):
            raise RequestError(f"{path} is a zip archive packed in an unusual way; unpack it first")
        stored = [member for member in members if member.compress_type == zipfile.ZIP_STORED]
        unlike = any(member.compress_size != member.file_size for member in stored)
        if unlike or sum(member.compress_size for member in members) > size:
            raise RequestError(f"{path} is a damaged zip archive: its members claim more bytes than it has")
        if members and (self._archive.start_dir != start or min(member.header_offset for member in members)):
            raise _ambiguous(path)
        # Other readers find members whatever their case, so nothing may hide behind it.
        if len({member.filename.lower() for member in members}) < len(members):
            raise RequestError(f"{path} is a zip archive with several members of one name; it is refused")
        self.sizes = {member.filename: member.file_size for member in members}
        """Bytes of each member, unpacked."""

    def read(self, name: str, skip: int = 0) -> Tensor:
        """Return the bytes of a member but for the first, ``uint8``."""
        with self._archive.open(name) as file:
            file.read(skip)
            return read_bytes(file, self.sizes[name] - skip)

    def beginning(self, name: str, length: int) -> bytes:
        """Return the first bytes of a member."""
        with self._archive.open(name) as file:
            return file.read(length)


def _check_directory(path: Path, file: BinaryIO, size: int, limits: Limits) -> int:
    """Return where the directory begins; refuse an archive that has it elsewhere than its end records say."""
    tail = _at(file, max(0, size - _END_BYTES - _LONGEST_COMMENT), size)
    place = tail.rfind(_END)
    record = tail[place : place + _END_BYTES]
    if place < 0 or len(record) < _END_BYTES or place + _END_BYTES + _number(record, 20, 2) != len(tail):
        raise RequestError(f"{path} is a damaged zip archive, or something follows it")
    end = size - len(tail) + place
    length, start = _number(record, 12, 4), _number(record, 16, 4)
    locator = _at(file, end - _LOCATOR_BYTES, end)
    if locator.startswith(_LOCATOR_64):
        end -= _LOCATOR_BYTES + _END_64_BYTES
        wide = _at(file, end, end + _END_64_BYTES)
        short, (length, start) = (length, start), (_number(wide, 40, 8), _number(wide, 48, 8))
        agree = all(narrow in (number, _IN_WIDE) for narrow, number in zip(short, (length, start), strict=True))
        if not wide.startswith(_END_64) or _number(locator, 8, 8) != end or not agree:
            raise _ambiguous(path)
    if start + length != end:
        raise _ambiguous(path)
    if length > limits.tensors * _DIRECTORY_BYTES or _at(file, start, end).count(_MEMBER) > limits.tensors:
        raise RequestError(f"{path} has more than {limits.tensors} members: that is no checkpoint")
    return start


def _ambiguous(path: Path) -> RequestError:
    return RequestError(f"{path} is a zip archive that programs may understand differently; it is refused")


def _at(file: BinaryIO, start: int, end: int) -> bytes:
    if start < 0 or end < start:
        return b""
    file.seek(start)
    return file.read(end - start)


def _number(record: bytes, place: int, length: int) -> int:
    return int.from_bytes(record[place : place + length], "little")
