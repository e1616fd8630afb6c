"""What a person waits for, in processor time: help, lists, what is in the store already, and the quickstart."""

import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.timing import Row, seconds

REQUEST = ["run", "--profile", "smoke", "--attack", "badnets", "--defense", "shrinkpad"]
AGAIN = {"gifthorse --help": ["--help"], "gifthorse list, again": ["list"], "gifthorse run, again": REQUEST}


def measure() -> list[Row]:
    program = Path(sys.executable).with_name("gifthorse")
    with tempfile.TemporaryDirectory() as folder:

        def call(arguments: list[str]) -> float:
            environment = {**os.environ, "XDG_CACHE_HOME": folder}
            command = [str(program), *arguments]
            return seconds(
                lambda: subprocess.run(command, cwd=folder, env=environment, capture_output=True, check=True)
            )

        rows: list[Row] = []
        for name, arguments in AGAIN.items():
            call(arguments)
            taken = statistics.median(call(arguments) for _ in range(5))
            rows.append((name, f"{taken:.2f} s", "< 0.5 s", "median of 5, new process"))
        started = call(["quickstart", "--no-open", "--store", "empty"])
    return [*rows, ("gifthorse quickstart", f"{started:.0f} s", "< 60 s", "8 cells and the report, empty store")]
