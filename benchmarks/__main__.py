"""Run every benchmark and print one table: the median of paired runs, ours beside the plain way."""

import sys
import time

import torch
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from benchmarks import (
    abs,  # noqa: A004
    adaptive,
    analyses,
    attacks,
    checkpoints,
    command_line,
    data_preparation,
    dhbe,
    erasing,
    filtering,
    grid,
    inspection_memory,
    mntd,
    neural_cleanse,
    online,
    report,
    scan,
    stacked,
    tables,
    training,
    translation,
)

MODULES = (
    data_preparation,
    dhbe,
    training,
    stacked,
    attacks,
    adaptive,
    neural_cleanse,
    mntd,
    abs,
    scan,
    erasing,
    filtering,
    inspection_memory,
    translation,
    analyses,
    online,
    checkpoints,
    command_line,
    grid,
    tables,
    report,
)


def main() -> None:
    wanted = set(sys.argv[1:])
    table = Table("what", "figure", "aim", "how", box=None)
    for module in MODULES:
        name = module.__name__.rpartition(".")[2]
        if wanted and name not in wanted:
            continue
        start = time.perf_counter()
        for row in module.measure():
            table.add_row(*map(escape, row))
        print(f"{name}: {time.perf_counter() - start:.0f} s", file=sys.stderr)
    Console(width=150).print(table)
    print(f"torch {torch.__version__}; processor time, one thread; median (range) of paired rounds")


if __name__ == "__main__":
    main()
