"""Claims: one owner at a time, and none that outlives its process."""

import json
import multiprocessing
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from gifthorse.bench import claims
from gifthorse.bench.claims import claimed, is_gone, sweep, this_machine
from gifthorse.core.errors import StoreError


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims, "POLL", 0.01)
    monkeypatch.setattr(claims, "HEARTBEAT", 0.05)


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def test_a_claim_is_a_file_while_it_is_held_and_nothing_afterwards(tmp_path: Path) -> None:
    with claimed(tmp_path / "claims", "benign-1"):
        assert files(tmp_path / "claims") == ["benign-1.0"]
    assert files(tmp_path / "claims") == []
    with pytest.raises(KeyError), claimed(tmp_path, "benign-1"):
        raise KeyError
    assert files(tmp_path) == ["claims"]


def test_two_claims_of_different_names_are_held_at_once(tmp_path: Path) -> None:
    with claimed(tmp_path, "record-1"), claimed(tmp_path, "benign-1"):
        assert files(tmp_path) == ["benign-1.0", "record-1.0"]


def test_only_one_thread_of_many_is_inside_at_a_time(tmp_path: Path) -> None:
    inside, most, entries = 0, 0, 0

    def work() -> None:
        nonlocal inside, most, entries
        for _ in range(5):
            with claimed(tmp_path, "trojan-1"):
                inside += 1
                entries += 1
                most = max(most, inside)
                time.sleep(0.002)
                inside -= 1

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (most, entries) == (1, 30)
    assert files(tmp_path) == []


def test_of_two_who_saw_no_claim_only_one_gets_it(tmp_path: Path) -> None:
    made = [claims._made(tmp_path, "trojan-1", None) for _ in range(2)]
    assert made == [tmp_path / "trojan-1.0", None]


def hold(folder: Path, ready: "multiprocessing.synchronize.Event") -> None:
    with claimed(folder, "trojan-1"):
        ready.set()
        time.sleep(60)


def test_the_claim_of_a_killed_process_is_taken_over_at_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    ready = context.Event()
    owner = context.Process(target=hold, args=(tmp_path, ready), daemon=True)
    owner.start()
    assert ready.wait(60)
    owner.kill()
    owner.join()
    assert files(tmp_path) == ["trojan-1.0"]
    began = time.monotonic()
    with claimed(tmp_path, "trojan-1"):
        assert time.monotonic() - began < 5
        assert files(tmp_path) == ["trojan-1.0", "trojan-1.1"]
    assert files(tmp_path) == []


def test_only_claims_of_the_dead_are_swept(tmp_path: Path) -> None:
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    dead = this_machine(), child.pid
    owners = {"dead-1.0": dead, "far-1.0": ("elsewhere", child.pid), "mine-1.0": None, "taken-1.1": dead}
    (tmp_path / "taken-1.0").touch()
    for name, owner in owners.items():
        machine, process = owner or (this_machine(), os.getpid())
        (tmp_path / name).write_text(json.dumps({"machine": machine, "process": process}))
    sweep(tmp_path)
    assert files(tmp_path) == ["far-1.0", "mine-1.0"]
    sweep(tmp_path / "nothing")


def test_the_claim_of_another_machine_is_taken_over_after_a_long_silence_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claims, "SILENCE", 0.5)
    (tmp_path / "trojan-1.0").write_text('{"machine": "elsewhere", "process": 1}')
    alive = threading.Event()

    def beat() -> None:
        while not alive.wait(0.05):
            # A clock of its own, far in the past: what counts is that the time of change changes.
            os.utime(tmp_path / "trojan-1.0", ns=(time.monotonic_ns(), time.monotonic_ns()))

    heart = threading.Thread(target=beat)
    heart.start()
    taken = threading.Event()

    def wait() -> None:
        with claimed(tmp_path, "trojan-1"):
            taken.set()

    waiter = threading.Thread(target=wait)
    waiter.start()
    assert not taken.wait(1.2)
    alive.set()
    heart.join()
    assert taken.wait(10)
    waiter.join()
    assert files(tmp_path) == []


def test_an_owner_shows_signs_of_life(tmp_path: Path) -> None:
    with claimed(tmp_path, "trojan-1"):
        first = (tmp_path / "trojan-1.0").stat().st_mtime_ns
        time.sleep(0.3)
        assert (tmp_path / "trojan-1.0").stat().st_mtime_ns > first


def test_a_claim_that_is_being_written_is_not_taken_for_dead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims, "SILENCE", 0.3)
    (tmp_path / "trojan-1.0").write_text("")
    began = time.monotonic()
    with claimed(tmp_path, "trojan-1"):
        assert time.monotonic() - began > 0.3


def test_a_process_is_gone_when_it_ended_here_and_never_when_it_is_elsewhere() -> None:
    child = subprocess.Popen([sys.executable, "-c", ""])
    while not is_gone(this_machine(), child.pid):
        time.sleep(0.01)
    child.wait()
    assert is_gone(this_machine(), child.pid)
    assert not is_gone(this_machine(), os.getpid())
    assert not is_gone("elsewhere", child.pid)


def test_a_folder_that_cannot_be_written_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot write"), claimed(tmp_path / "file", "trojan-1"):
        pass
