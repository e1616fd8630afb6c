"""One torch thread per test process, and small real tasks that many tests share."""

import os
import sys

os.environ.setdefault("OMP_NUM_THREADS", "1")

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import settings

from gifthorse.bench.plugins import PLUGINS
from gifthorse.core.classifier import Classifier
from gifthorse.core.configuration import CATALOGUES
from gifthorse.core.errors import RequestError
from gifthorse.core.task import Splits, Task
from gifthorse.core.trojan import Trojan
from gifthorse.datasets import DATASETS
from worlds import digits_world

torch.set_num_threads(1)

collect_ignore = ["extension"]
"""It would be listed in every test; test_extension.py installs it for processes of its own."""

# On a busy machine any call may take long; that says nothing of the code.
settings.register_profile("patient", deadline=None)
settings.load_profile("patient")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let one process run all tests that share what their file makes for them: two would make it twice."""
    for item in items:
        made = getattr(item, "_fixtureinfo", None)
        shared = {each[-1].scope for each in made.name2fixturedefs.values()} if made is not None else set()
        if "module" in shared and item.get_closest_marker("xdist_group") is None:
            item.add_marker(pytest.mark.xdist_group(item.nodeid.partition("::")[0]))


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Keep the tests' lists out of the user's cache."""
    os.environ["XDG_CACHE_HOME"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(autouse=True)
def _global_draws() -> None:
    """Give every test the same global draws (dropout, weights), whichever tests ran before it in its process."""
    torch.manual_seed(0)


@pytest.fixture
def _forgets_plugins() -> Iterator[None]:
    """Leave no method listed that a plugin added."""
    modules = {*sys.modules}
    yield
    for plugin in PLUGINS.values():
        for cls in plugin.listed:
            CATALOGUES[cls.catalogue].remove(cls)
    PLUGINS.clear()
    for name in sys.modules.keys() - modules:
        if name.startswith(("gifthorse_plugin_", "laboratory_")):
            del sys.modules[name]


@pytest.fixture(scope="session")
def task() -> Task:
    """Digits, as the smoke profile has them."""
    return digits_world().task


@pytest.fixture(scope="session")
def benign() -> Classifier:
    return digits_world().benign


@pytest.fixture(scope="session")
def trojan() -> Trojan:
    """BadNets on digits, as the smoke profile has it."""
    return digits_world().trojan


@pytest.fixture(scope="session")
def real_images() -> Callable[[str], Splits]:
    """What reads a real image set by name; where it is absent or refused, as on a fresh machine, the test is skipped.

    Never in CI.
    """

    def read(name: str) -> Splits:
        try:
            return DATASETS.build(name).load(_data_root())
        except RequestError as error:
            if os.environ.get("CI"):
                pytest.fail(str(error))
            pytest.skip(str(error))

    return read


@pytest.fixture(scope="session")
def real_data(real_images: Callable[[str], Splits]) -> Path:
    """The folder with the real image sets, MNIST among them."""
    real_images("mnist")
    return _data_root()


def _data_root() -> Path:
    return Path(os.environ.get("GIFTHORSE_DATA", "data"))
