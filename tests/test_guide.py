"""The guide tells the truth: what it has of code runs, section by section, each in an empty folder."""

import re
import shlex
from pathlib import Path

import pytest

import gifthorse as package
import terminal
from gifthorse.core.record import Record

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "docs/guide.md").read_text()
SECTIONS = dict(re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", TEXT, re.MULTILINE | re.DOTALL))
BLOCK = re.compile(r"(<!-- shown only[^>]*-->\s*)?^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
FILE = re.compile(r"# (\w+\.py)\n")
WORKS = {
    "A detector": {"defense.index": (0.9, 1.0)},
    "A screen": {"defense.tpr": (0.8, 1.0), "defense.fpr": (0.0, 0.15)},
    "An eraser": {"defense.asr": (0.0, 0.25), "defense.acc": (0.85, 1.0)},
    "Images": {"attack.asr": (0.9, 1.0)},
    "A data set": {"attack.asr": (0.9, 1.0)},
}
"""What a reader sees who follows a section, where the backdoor is badnets'."""


@pytest.mark.parametrize("title", SECTIONS)
def test_the_code_of_a_section_runs_as_printed(title: str, tmp_path: Path) -> None:
    """A block that begins with the name of a file is saved as one; other Python and all commands are run, in order."""
    for postponed, language, code in BLOCK.findall(SECTIONS[title]):
        assert language in ("python", "sh", "text"), language
        named = FILE.match(code)
        if postponed or language == "text":
            continue
        if named:
            (tmp_path / named[1]).write_text(code)
        elif language == "python":
            # The version is asked for afterwards: this way torch is imported once for all of them.
            assert "gifthorse, version" in terminal.gifthorse("--version", cwd=tmp_path, before=code).stdout
        else:
            for command in code.splitlines():
                program, *arguments = shlex.split(command)
                assert program == "gifthorse"
                done = terminal.gifthorse(*arguments, cwd=tmp_path, check=None)
                assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
                assert not re.search("skipped|did not take", done.stdout), f"{command}: {done.stdout}"
    found = [Record.from_json(path.read_text()) for path in (tmp_path / "gifthorse-runs").glob("records/*.json")]
    for record in found:
        assert record.status == "done"
        for name, (least, most) in WORKS.get(title, {}).items():
            if name in record.metrics and (record.attack["name"] == "badnets" or name == "defense.acc"):
                assert least <= float(str(record.metrics[name])) <= most, (name, record.command)
    if title == "A detector":
        assert {(record.attack["name"] != "none", record.metrics["defense.flagged"]) for record in found} == {
            (False, False),
            (True, True),
        }


def test_all_code_is_in_a_section_and_all_links_lead_somewhere() -> None:
    assert len(BLOCK.findall(TEXT)) == sum(len(BLOCK.findall(text)) for text in SECTIONS.values())
    anchors = {title.lower().replace(" ", "-") for title in SECTIONS}
    for target in re.findall(r"\]\(([^)]+)\)", TEXT):
        assert target[1:] in anchors if target.startswith("#") else (ROOT / "docs" / target).exists(), target


def test_the_names_in_its_table_are_public() -> None:
    table = "".join(line for line in TEXT.partition("\n## ")[0].splitlines() if line.startswith("|"))
    names = {name for code in re.findall(r"`([^`]+)`", table) for name in re.findall(r"\b[A-Z]\w+", code)}
    assert names - set(package.__all__) == {"OneTarget", "PoisoningAttack"}
    assert len(names) > 10
