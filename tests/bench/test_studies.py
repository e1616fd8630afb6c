"""The grid files that come with gifthorse: each asks for what can be carried out."""

from pathlib import Path

import pytest

from gifthorse.bench.cell import resolve
from gifthorse.bench.study import StudyFile, expand
from gifthorse.cli.commands import listing

STUDIES = sorted((Path(__file__).parents[2] / "studies").glob("*.toml"))


def test_there_are_studies() -> None:
    assert len(STUDIES) > 10


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_a_study_asks_for_cells_that_there_are(path: Path) -> None:
    asked = expand(StudyFile.read(path.read_text(), path.name), listing())
    assert asked.cells or asked.populations
    requests = [*asked.cells, *(each.request for each in asked.populations)]
    for request in {(each["attack"], each["defense"], each["downstream"]): each for each in requests}.values():
        resolve(**{key: value for key, value in request.items() if key != "vary_target"})
