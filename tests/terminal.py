"""The command line in a process of its own: in a new interpreter, or begun where torch was imported once."""

import multiprocessing
import os
import subprocess
import sys
import tempfile
from multiprocessing.context import ForkServerProcess
from pathlib import Path

PRELOADED = ["pytest", "sklearn.metrics", "torch._dynamo"]
PRELOADED += [f"gifthorse.bench.{name}" for name in ("execution", "plan", "population", "runner")]
"""What takes most of the seconds of a new interpreter. The commands, which look at their terminal while they are
imported, are not among it."""
SERVED = multiprocessing.get_context("forkserver")
SERVED.set_forkserver_preload(PRELOADED)


def gifthorse(
    *arguments: str, cwd: Path, check: int | None = 0, before: str = "", **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run a command in a process that is a copy of one that imported torch, and did nothing else, once for all tests.

    ``before`` is code to be run first. What a command does without torch is seen by :func:`gifthorse_afresh`: where
    torch is imported already no answers are kept.
    """
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / name for name in ("out", "err")]
        process = gifthorse_begun(*arguments, cwd=cwd, paths=paths, before=before, **environment)
        process.join(300)
        if process.is_alive():
            process.kill()
            process.join()
            raise TimeoutError(" ".join(arguments))
        code = process.exitcode
        assert code is not None
        process.close()
        out, err = (path.read_text() for path in paths)
    return _checked(subprocess.CompletedProcess(arguments, code, out, err), check)


def gifthorse_begun(
    *arguments: str, cwd: Path, paths: list[Path], before: str = "", **environment: str
) -> ForkServerProcess:
    """Begin with a command as :func:`gifthorse` does; ``paths`` are where its output and its errors go."""
    process = SERVED.Process(target=_run, args=(arguments, str(cwd), before, _environment(environment), paths))
    process.start()
    return process


def gifthorse_afresh(
    *arguments: str, cwd: Path, check: int | None = 0, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run a command in a new interpreter, as a person at the terminal does."""
    command = [sys.executable, "-c", "from gifthorse.cli.main import main; main()", *arguments]
    found = subprocess.run(command, cwd=cwd, capture_output=True, text=True, env=_environment(environment), timeout=300)
    return _checked(found, check)


def _environment(said: dict[str, str]) -> dict[str, str]:
    return {**{key: value for key, value in os.environ.items() if not key.startswith("GIFTHORSE_")}, **said}


def _checked(found: subprocess.CompletedProcess[str], code: int | None) -> subprocess.CompletedProcess[str]:
    if code is not None:
        assert found.returncode == code, found.stderr
    return found


def _run(arguments: tuple[str, ...], cwd: str, before: str, environment: dict[str, str], paths: list[Path]) -> None:
    """Be the process: its folder, environment and streams are its own."""
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    for number, path in enumerate(paths, 1):
        kept = os.open(path, os.O_WRONLY | os.O_CREAT)
        os.dup2(kept, number)
        os.close(kept)
    sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False, buffering=1)  # noqa: SIM115
    sys.argv = ["gifthorse", *arguments]
    # A new interpreter would look for modules in its folder first.
    sys.path.insert(0, "")
    exec(before, {})
    from gifthorse.cli.main import main

    main()
