"""Plants known bugs, one at a time, and sees that the named test notices: ``python -m tests.mutants [WORD ...]``.

Words choose bugs whose description, file or test has one of them. The source is copied; the working tree stays as it
is. Ends with 1 where a bug goes unnoticed, or where a test is red without one.
"""

import multiprocessing
import os
import shutil
import sys
import tempfile
import tomllib
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch  # noqa: F401  (imported once, for all the processes that are forked)

ROOT = Path(__file__).resolve().parents[2]
RED = pytest.ExitCode.TESTS_FAILED
FORKED = multiprocessing.get_context("fork")


@dataclass(frozen=True)
class Mutant:
    """A bug, and the test that must turn red where ``old`` is replaced by ``new`` in a file of the package."""

    bug: str
    file: str
    old: str
    new: str
    test: str

    def plant(self, package: Path) -> None:
        """Put the bug into a copy of the package; ``ValueError`` where there is no one place for it."""
        path = package / self.file
        text = path.read_text()
        if text.count(self.old) != 1:
            raise ValueError(f"{self.file} has {text.count(self.old)} times: {self.old}")
        path.write_text(text.replace(self.old, self.new))


def outcome(mutant: Mutant | None, tests: list[str]) -> int:
    """Return how pytest ends on a copy of the source with a bug, or without one."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "src"
        shutil.copytree(ROOT / "src", copy, ignore=shutil.ignore_patterns("__pycache__"))
        if mutant is not None:
            mutant.plant(copy / "gifthorse")
        process = FORKED.Process(target=_test, args=(str(copy), tests, Path(folder) / "said.txt"))
        process.start()
        process.join()
        assert process.exitcode is not None
        if process.exitcode not in (pytest.ExitCode.OK, RED):
            print((Path(folder) / "said.txt").read_text())
        return process.exitcode


def _test(source: str, tests: list[str], said: Path) -> None:
    os.chdir(ROOT)
    os.environ["PYTHONPATH"] = source
    sys.path.insert(0, source)
    with said.open("w") as stream, redirect_stdout(stream), redirect_stderr(stream):
        import gifthorse

        assert str(gifthorse.__file__).startswith(source)
        code = pytest.main(["-q", "-x", "-p", "no:cacheprovider", *tests])
    sys.stdout.flush()
    os._exit(code)


def main(words: list[str]) -> int:
    """Try all mutants, or those that words choose; print a line for each."""
    found = tomllib.loads(Path(__file__).with_name("mutants.toml").read_text())["mutant"]
    mutants = [Mutant(**each) for each in found]
    mutants = [each for each in mutants if not words or any(word in str(each) for word in words)]
    if not mutants:
        print(f"no bug has one of these words: {' '.join(words)}")
        return 1
    failed = outcome(None, sorted({each.test for each in mutants}))
    print("without a bug all tests are green" if failed == 0 else "some tests are red without a bug", flush=True)
    unnoticed = 0
    for each in mutants:
        noticed = outcome(each, [each.test]) == RED
        unnoticed += not noticed
        print(f"{'noticed' if noticed else 'SURVIVED':9} {each.file:45} {each.bug}", flush=True)
    print(f"{len(mutants) - unnoticed} of {len(mutants)} bugs were noticed")
    return 1 if failed or unnoticed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
