"""The pages of the API are made of every docstring, without warning and network: this is their build in CI."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import gifthorse

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Every page, by its place; making them all takes some ten seconds, once."""
    folder = tmp_path_factory.mktemp("api")
    nowhere = {**os.environ, "http_proxy": "http://127.0.0.1:9", "https_proxy": "http://127.0.0.1:9"}
    command = [sys.executable, str(ROOT / "docs/api.py"), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, env=nowhere, timeout=300)
    assert done.returncode == 0, done.stderr
    return {path.relative_to(folder).as_posix(): path.read_text() for path in folder.rglob("*.html")}


def test_every_public_name_and_every_extension_point_is_on_a_page(pages: dict[str, str]) -> None:
    front = pages["gifthorse.html"]
    assert [name for name in gifthorse.__all__ if f'id="{name}"' not in front] == []
    assert 'url=./gifthorse.html"' in pages["index.html"]
    for module, name in {
        "planting/poisoning": "PoisoningAttack",
        "planting/wrapping": "WrappingAttack",
        "triggers/patch": "Patch",
        "inversion/engine": "TriggerSource",
        "datasets/folder": "FolderDataset",
        "contracts": "promises_of",
        "core/defense": "CleanImagesDefense.clean_share",
    }.items():
        assert f'id="{name}"' in pages[f"gifthorse/{module}.html"], name
    for package in ("attacks", "core", "defenses", "triggers"):
        assert f'href="gifthorse/{package}.html"' in front


def test_docstrings_are_shown_as_they_are_meant(pages: dict[str, str]) -> None:
    everything = "".join(pages.values())
    assert re.findall(r":(?:class|func|meth|mod|data|attr|exc|obj):`", everything) == []
    # The second is named inside an annotation, which is shown as it is written.
    assert re.findall(r"(?<!json_schema_input_type=)PydanticUndefined", everything) == []
    badnets = pages["gifthorse/attacks/data/badnets.html"]
    assert re.search(r"<p>Paper: Gu.*?</p>\s*<p>Differs: TrojanZoo", badnets, re.DOTALL)
    assert "Adam's learning rate for mask and pattern" in pages["gifthorse/defenses/inspection/neural_cleanse.html"]
    outcomes = pages["gifthorse/core/outcomes.html"]
    assert re.search(r'<a href="[^"]*gifthorse\.html#KINDS">gifthorse.metrics.judge.KINDS<', outcomes)


def test_pages_need_nothing_from_elsewhere_and_tell_nothing_of_this_machine(pages: dict[str, str]) -> None:
    for place, page in pages.items():
        assert not re.search(r'(?:src="|<link[^>]*href=")(?:https?:)?//', page), place
        assert str(ROOT) not in page, place
        assert str(Path.home()) not in page, place
