"""Options that several commands share."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])


def store_option(command: F) -> F:
    """Add the option that says where results are kept."""
    return click.option(
        "--store",
        type=click.Path(path_type=Path, file_okay=False),
        default="gifthorse-runs",
        envvar="GIFTHORSE_STORE",
        show_default=True,
        show_envvar=True,
        help="Folder that keeps models and records; what is there is not computed again.",
    )(command)


def plugin_option(command: F) -> F:
    """Add the option that names Python files with methods, which the command gets as ``plugins``."""
    return click.option(
        "--plugin",
        "plugins",
        type=click.Path(path_type=Path, dir_okay=False),
        multiple=True,
        metavar="FILE",
        help="Python file whose methods are listed beside all others; may be given several times. "
        "It is run as any program is: name only files that you trust.",
    )(command)


@dataclass(frozen=True)
class Machine:
    """Where to compute, how, and where the images are."""

    data_root: Path
    device: str | None
    threads: int | None
    deterministic: bool


def machine_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options that make a :class:`Machine`, which the command gets as ``machine``."""

    @wraps(command)
    def with_machine(
        data_root: Path, device: str | None, threads: int | None, deterministic: bool, **others: Any
    ) -> None:
        command(machine=Machine(data_root, device, threads, deterministic), **others)

    wrapped: Callable[..., None] = with_machine
    for option in (
        click.option(
            "--deterministic/--no-deterministic",
            default=True,
            help="Repeatable arithmetic on a GPU (the default), or whatever is fastest there.",
        ),
        click.option("--threads", type=click.IntRange(1), help="CPU threads; all cores unless given."),
        click.option("--device", metavar="DEVICE", help="cpu, cuda or cuda:N; the GPU where there is one."),
        click.option(
            "--data-root",
            type=click.Path(path_type=Path, file_okay=False),
            default="data",
            envvar="GIFTHORSE_DATA",
            show_default=True,
            show_envvar=True,
            help="Folder with the image sets in torchvision's layout ('digits' needs none).",
        ),
    ):
        wrapped = option(wrapped)
    return wrapped
