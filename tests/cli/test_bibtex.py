"""What `gifthorse list --bibtex` prints: the papers behind everything listed, as BibTeX that can be pasted."""

import re
import subprocess
import sys
import tomllib
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

import gifthorse as package
from gifthorse.cli import bibtex
from gifthorse.cli.commands import listing
from gifthorse.core.configuration import Catalogue
from terminal import gifthorse

SOURCE = Path(package.__file__).parent
ROOT = SOURCE.parents[1]
FILE = tomllib.loads((SOURCE / "references.toml").read_text())
OWN = {
    "attacks": {"none"},
    "defenses": {"pipeline", "ensemble"},
    "models": {"small_cnn"},
    "datasets": {"folder"},
    "recipes": {"standard"},
    "stamps": {"rotated"},
    "analyses": set(),
}
"""What has no paper: the only names that may go without."""
CALLED = {
    "TrojanZoo": "pang2022trojanzoo",
    "DHBE": "yan2023dhbe",
    "AEGIS": "soremekun2020aegis",
    "Dynamic Backdoors": "salem2022dynamic",
}
"""Papers that are named by a word of their own."""
ARXIV = re.compile(r"arXiv:(\d{4}\.\d{5})")
PAPER = re.compile(r"^Paper: (.*?)(?=^Differs|\Z)", re.MULTILINE | re.DOTALL)
REQUIRED = {
    "inproceedings": {"author", "title", "booktitle", "year"},
    "misc": {"author", "title", "year"},
    "techreport": {"author", "title", "institution", "year"},
}


def parse(text: str) -> dict[str, dict[str, str]]:
    """Read BibTeX as strictly as a reader may: entries, their fields in braces that balance, and nothing between."""
    entries: dict[str, dict[str, str]] = {}
    place = 0
    while head := re.compile(r"\s*@(\w+)\{([\w-]+),").match(text, place):
        kind, key = head.groups()
        assert key not in entries, f"{key} comes twice"
        entries[key] = {"type": kind}
        place = head.end()
        while field := re.compile(r"\s*(\w+)\s*=\s*\{").match(text, place):
            depth, end = 1, field.end()
            while depth:
                depth += {"{": 1, "}": -1}.get(text[end], 0)
                end += 1
            assert field[1] not in entries[key]
            entries[key][field[1]] = text[field.end() : end - 1]
            comma = re.compile(r"\s*,").match(text, end)
            assert comma, text[end : end + 20]
            place = comma.end()
        close = re.compile(r"\s*\}").match(text, place)
        assert close, text[place : place + 40]
        place = close.end()
    assert text[place:].strip() == ""
    return entries


def named_by(text: str) -> set[str]:
    """Return the keys of the papers that a description names by a number or by a word."""
    keys = {key for key, paper in FILE["papers"].items() if paper.get("eprint") in ARXIV.findall(text)}
    keys |= {key for key, paper in FILE["papers"].items() if f"doi:{paper.get('doi')}" in text}
    return keys | {key for word, key in CALLED.items() if re.search(rf"\b{word}\b", text)}


def test_everything_listed_has_its_papers_and_nothing_else_has() -> None:
    listed = listing()
    assert set(bibtex.kinds()) == listed.keys() - {"families", "metrics"}
    for kind in bibtex.kinds():
        named = bibtex.known(kind)
        own = {name for name, about in listed[kind].items() if about["origin"] == "gifthorse"}
        assert named.keys() == own, kind
        assert {name for name, keys in named.items() if not keys} == OWN.get(kind, set()), kind


def test_every_paper_that_a_listing_names_is_among_those_printed() -> None:
    for kind in bibtex.kinds():
        for name, about in listing()[kind].items():
            said = "" if about.get("paper", "").startswith("none") else about.get("paper", "")
            numbers = {paper.get("eprint") for paper in FILE["papers"].values()}
            assert set(ARXIV.findall(said)) <= numbers, f"{kind} {name}"
            if about["origin"] == "gifthorse":
                assert named_by(said) <= set(bibtex.known(kind)[name]), f"{kind} {name}"


@pytest.mark.parametrize("kind", ["attacks", "defenses"])
def test_every_paper_that_a_file_names_is_among_those_of_its_methods(kind: str) -> None:
    from gifthorse.attacks import ATTACKS
    from gifthorse.defenses import DEFENSES

    catalogue: Catalogue[Any] = ATTACKS if kind == "attacks" else DEFENSES
    methods: dict[str, list[str]] = {}
    for name in bibtex.known(kind):
        made = catalogue.build(catalogue.presets.get(name, name))
        methods.setdefault(type(made).__module__, []).append(name)
    assert len(methods) > 10
    numbers = {paper.get("eprint") for paper in FILE["papers"].values()}
    for module, names in methods.items():
        paper = re.search(PAPER, sys.modules[module].__doc__ or "")
        assert paper, module
        if not paper[1].startswith("none"):
            assert set(ARXIV.findall(paper[1])) <= numbers, module
            assert named_by(paper[1]) <= {key for name in names for key in bibtex.known(kind)[name]}, module


def test_papers_are_listed_once_complete_and_for_something() -> None:
    papers = FILE["papers"]
    used = Counter(key for kind in FILE["names"].values() for keys in kind.values() for key in keys)
    assert used.keys() == papers.keys()
    for numbers in ("eprint", "doi", "title"):
        assert max(Counter(paper[numbers] for paper in papers.values() if numbers in paper).values()) == 1
    for key, paper in papers.items():
        assert paper.keys() >= REQUIRED[paper["type"]], key
        assert key.endswith(str(paper["year"])) or str(paper["year"]) in key, key
        first = paper["author"][0].strip("{}").split()[-1].lower()
        assert key.startswith(first) or key == "torchvision2016", key
        assert all(text.isascii() for text in (paper["title"], *paper["author"])), key


def test_what_is_printed_is_bibtex_sorted_by_key() -> None:
    everything = bibtex.entries(key for kind in bibtex.kinds() for keys in bibtex.known(kind).values() for key in keys)
    found = parse(everything)
    assert list(found) == sorted(FILE["papers"])
    assert found["wang2019neural"]["title"] == FILE["papers"]["wang2019neural"]["title"]
    assert found["meng2017magnet"] == {
        "type": "inproceedings",
        "title": "{MagNet}: A Two-Pronged Defense Against Adversarial Examples",
        "author": "Dongyu Meng and Hao Chen",
        "booktitle": "Proceedings of the ACM SIGSAC Conference on Computer and Communications Security (CCS)",
        "year": "2017",
        "eprint": "1705.09064",
        "archiveprefix": "arXiv",
    }


@pytest.mark.parametrize("broken", ["@misc{a,\n title = {{x},\n}", "@misc{a,}\n@misc{a,}", "@misc{a, x = {1}}", "and"])
def test_what_is_no_bibtex_is_found(broken: str) -> None:
    with pytest.raises((AssertionError, IndexError)):
        parse(broken)


def test_list_prints_the_papers_of_one_of_a_kind_and_of_all(tmp_path: Path) -> None:
    one = gifthorse("list", "attacks", "badnets", "--bibtex", cwd=tmp_path).stdout
    assert list(parse(one)) == ["gu2017badnets", "pang2022trojanzoo"]
    assert gifthorse("list", "attacks", "bn", "--bibtex", cwd=tmp_path).stdout == one
    attacks = parse(gifthorse("list", "attacks", "--bibtex", cwd=tmp_path).stdout)
    assert {"gu2017badnets", "yao2019latent"} <= attacks.keys()
    assert "wang2019neural" not in attacks
    assert list(parse(gifthorse("list", "--bibtex", cwd=tmp_path).stdout)) == sorted(FILE["papers"])


@pytest.mark.parametrize(
    ("request_", "said"),
    [
        (["metrics"], "behind metrics"),
        (["families", "filtering"], "behind families"),
        (["defenses", "pipeline"], "no paper is behind 'pipeline'"),
        (["attacks", "badnest"], "did you mean 'badnets'"),
        (["attacks", "--json"], "--json and --bibtex exclude each other"),
        (["attacks", "mine", "--plugin", "mine.py"], "no BibTeX is known of 'mine'"),
    ],
)
def test_where_no_paper_is_known_it_says_so_in_one_line(tmp_path: Path, request_: list[str], said: str) -> None:
    mine = "from gifthorse.attacks.data.badnets import BadNets\n\n\nclass Mine(BadNets):\n    '''Mine.'''\n\n"
    (tmp_path / "mine.py").write_text(mine + "    name = 'mine'\n    aliases = ()\n    paper = 'of my own'\n")
    found = gifthorse("list", *request_, "--bibtex", cwd=tmp_path, check=2)
    assert found.stdout == ""
    assert said in found.stderr
    assert len(found.stderr.splitlines()) == 1


def test_of_what_comes_from_elsewhere_it_says_that_nothing_is_known(tmp_path: Path) -> None:
    own = str(ROOT / "examples/own_attack.py")
    found = gifthorse("list", "attacks", "--bibtex", "--plugin", own, cwd=tmp_path)
    assert len(parse(found.stdout)) > 10
    assert found.stderr == "no BibTeX is known of frame\n"


def test_the_papers_are_told_without_torch_and_without_a_listing(tmp_path: Path) -> None:
    code = "import sys; from gifthorse.cli.commands import print_bibtex; print_bibtex('defenses', 'strip', ())\n"
    code += "print_bibtex('attacks', None, ()); print('torch' in sys.modules)"
    command = [sys.executable, "-c", code]
    environment = {"PYTHONPATH": str(SOURCE.parent), "XDG_CACHE_HOME": str(tmp_path)}
    found = subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout
    assert "gao2019strip" in found
    assert found.endswith("False\n")
    assert list(tmp_path.iterdir()) == []


def test_the_package_takes_the_file_along() -> None:
    """What is no Python file is left out of a wheel unless it is declared."""
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())
    patterns = declared["tool"]["setuptools"]["package-data"]["gifthorse"]
    left = [path.relative_to(SOURCE) for path in SOURCE.rglob("*") if path.is_file() and path.suffix != ".py"]
    left = [path for path in left if path.parent.name != "__pycache__" and not any(map(path.match, patterns))]
    assert left == []
