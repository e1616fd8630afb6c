"""The command line in a process of its own."""

import os
import subprocess
import sys
from pathlib import Path


def gifthorse(
    *arguments: str, cwd: Path, check: int | None = 0, **environment: str
) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from gifthorse.cli.main import main; main()", *arguments]
    keep = {key: value for key, value in os.environ.items() if not key.startswith("GIFTHORSE_")}
    result = subprocess.run(command, cwd=cwd, capture_output=True, text=True, env={**keep, **environment}, timeout=300)
    if check is not None:
        assert result.returncode == check, result.stderr
    return result
