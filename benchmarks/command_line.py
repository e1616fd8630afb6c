"""What a person waits for, in processor time: the help text, and the quickstart."""

import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.timing import Row, seconds


def measure() -> list[Row]:
    program = Path(sys.executable).with_name("gifthorse")
    helped = statistics.median(
        seconds(lambda: subprocess.run([program, "--help"], capture_output=True, check=True)) for _ in range(5)
    )
    with tempfile.TemporaryDirectory() as folder:
        started = seconds(
            lambda: subprocess.run([program, "quickstart", "--no-open"], cwd=folder, capture_output=True, check=True)
        )
    return [
        ("gifthorse --help", f"{helped:.2f} s", "< 0.5 s", "median of 5, new process"),
        ("gifthorse quickstart", f"{started:.0f} s", "< 60 s", "8 cells and the report, empty store"),
    ]
