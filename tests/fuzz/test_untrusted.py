"""Files, folders and requests that nobody vouches for: whatever they hold, they are read or refused, and cheaply.

The inputs are made and tried in a process of its own (``hostile.py``), which says how much it took.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

# An archive of pickles is where the most can go wrong.
QUICK = {
    "archive": 300,
    "legacy": 300,
    "safetensors": 200,
    "npz": 200,
    "pickle": 600,
    "zip records": 300,
    "headers": 300,
    "onnx": 200,
    "request": 300,
    "grid file": 100,
    "folder": 100,
}
LONG = {**{kind: 40 * count for kind, count in QUICK.items()}, "folder": 3000}
SECONDS = 1200


def tried(counts: dict[str, int], folder: Path) -> list[dict[str, object]]:
    """Return a line per kind of input; it fails where an input does, and names it."""
    script = Path(__file__).with_name("hostile.py")
    asked = [f"{kind}={count}" for kind, count in counts.items()]
    child = subprocess.run(
        [sys.executable, str(script), str(folder), *asked],
        capture_output=True,
        text=True,
        timeout=SECONDS,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert child.returncode == 0, child.stdout + child.stderr[-3000:]
    return [json.loads(line) for line in child.stdout.splitlines()]


def test_hostile_inputs_are_read_or_refused_within_bounds(tmp_path: Path) -> None:
    found = tried(QUICK, tmp_path)
    assert {line["kind"]: line["inputs"] for line in found} == QUICK
    # Where none was read, or all were, nothing would have been tried.
    for line in found:
        if line["kind"] != "onnx":
            assert 0 < int(str(line["read"])) < int(str(line["inputs"])), line


@pytest.mark.slow
def test_a_hundred_thousand_hostile_inputs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = tried(LONG, tmp_path)
    assert sum(int(str(line["inputs"])) for line in found) >= 100_000
    with capsys.disabled():
        print(*found, sep="\n")
