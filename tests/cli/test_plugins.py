"""A method in a file of one's own, from the terminal: listed, run, edited and run again, asked what it promises."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import terminal
from gifthorse.cli.main import cli
from gifthorse.core.errors import RequestError
from gifthorse.core.record import Record

EXAMPLES = Path(__file__).parents[2] / "examples"
PROGRAM = "import sys\nfrom gifthorse.cli.main import main\n"
PROGRAM += "try:\n    main()\nfinally:\n    print('torch' in sys.modules, file=sys.stderr)"
QUICK = ["--profile", "smoke", "--training", "standard[epochs=1]", "--threads", "1", "--json"]
FRAME = "frame[origin=scratch,poison_rate=0.1]"


def gifthorse(*arguments: str, cwd: Path, code: int = 0) -> tuple[str, str, bool]:
    """What a new interpreter prints, what it says of that, and whether it imported torch."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *arguments],
        cwd=cwd,
        env={**os.environ, "XDG_CACHE_HOME": str(cwd / "cache")},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == code, done.stdout + done.stderr
    *said, torch = done.stderr.splitlines()
    return done.stdout, "\n".join(said), torch == "True"


@pytest.fixture
def own(tmp_path: Path) -> Path:
    path = tmp_path / "own.py"
    path.write_text((EXAMPLES / "own_attack.py").read_text())
    return path


def test_it_is_listed_with_where_it_comes_from(own: Path, tmp_path: Path) -> None:
    shown = gifthorse("list", "attacks", "--plugin", "own.py", cwd=tmp_path)[0]
    assert "from" in shown.splitlines()[0]
    assert "Draws a white frame" in shown
    assert f"From: {own}" in gifthorse("list", "attacks", "frame", "--plugin", "own.py", cwd=tmp_path)[0]
    listed = json.loads(gifthorse("list", "attacks", "--json", "--plugin", "own.py", cwd=tmp_path)[0])
    assert {about["origin"] for about in listed} == {"gifthorse", str(own)}
    assert {about["origin"] for about in listed if about["name"] == "frame"} == {str(own)}
    plain = gifthorse("list", "attacks", cwd=tmp_path)[0]
    assert "from" not in plain.splitlines()[0]
    assert "frame" not in plain


def test_it_runs_is_edited_and_runs_again_and_no_old_answer_is_given(own: Path, tmp_path: Path) -> None:
    run = ["run", "--plugin", "own.py", "--attack", FRAME, *QUICK]
    first, _, torch = gifthorse(*run, cwd=tmp_path)
    record = Record.from_json(first)
    assert torch
    assert record.status == "done"
    assert record.attack["name"] == "frame"
    assert list(record.plugins) == [str(own)]
    assert gifthorse(*run, cwd=tmp_path) == (first, "", False)

    assert record.command is not None
    again = shlex.split(record.command)
    assert again[:3] == ["gifthorse", "run", "--plugin"]
    assert gifthorse(*again[1:], "--threads", "1", "--json", cwd=tmp_path)[0] == first

    text = own.read_text()
    own.write_text(text.replace("1:-1, 1:-1", "2:-2, 2:-2"))
    edited, _, torch = gifthorse(*run, cwd=tmp_path)
    assert torch
    assert Record.from_json(edited).id != record.id
    assert Record.from_json(edited).plugins != record.plugins
    own.write_text(text)
    assert gifthorse(*run, cwd=tmp_path)[0] == first


def test_another_plugin_beside_it_is_no_old_answer_and_not_in_its_record(own: Path, tmp_path: Path) -> None:
    (tmp_path / "beside.py").write_text((EXAMPLES / "own_defense.py").read_text())
    run = ["run", "--attack", "none", *QUICK]
    first = gifthorse(*run, "--plugin", "own.py", cwd=tmp_path)[0]
    both = gifthorse(*run, "--plugin", "own.py", "--plugin", "beside.py", cwd=tmp_path)
    assert both == (first, "", True)
    assert Record.from_json(first).plugins == {}
    own.write_text("1 / 0")
    assert "line 1" in gifthorse(*run, "--plugin", "own.py", cwd=tmp_path, code=2)[1]


def test_a_set_is_poisoned_and_a_population_judged_with_it(own: Path, tmp_path: Path) -> None:
    poison = [
        "poison",
        "--plugin",
        "own.py",
        "--attack",
        "frame[poison_rate=0.1]",
        "--profile",
        "smoke",
        "--out",
        "out",
    ]
    terminal.gifthorse(*poison, "--threads", "1", cwd=tmp_path)
    assert json.loads((tmp_path / "out/manifest.json").read_text())["attack"]["name"] == "frame"
    ask = ["population", "--plugin", "own.py", "--attack", FRAME, "--defense", "neural_cleanse[steps=2]", *QUICK]
    found = json.loads(terminal.gifthorse(*ask, "--benign", "1", "--trojaned", "1", cwd=tmp_path).stdout)
    assert found["attack"]["name"] == "frame"


STUDY = """
plugins = "methods/own.py"
profile = "smoke"
training = "standard[epochs=1]"
attack = ["frame[origin=scratch,poison_rate=0.1]", "none"]
defense = "shrinkpad"

[[population]]
attack = "frame[origin=scratch,poison_rate=0.1]"
defense = "neural_cleanse[steps=2]"
benign = 1
trojaned = 1
"""


@pytest.fixture
def study(own: Path, tmp_path: Path) -> Path:
    """A grid file in a folder of its own, which names a plugin relative to itself; it is run from the folder above."""
    folder = tmp_path / "studies"
    (folder / "methods").mkdir(parents=True)
    own.rename(folder / "methods/own.py")
    (folder / "study.toml").write_text(STUDY)
    return folder / "study.toml"


def test_a_grid_file_names_it_and_processes_have_it_and_an_edited_one_is_computed_again(
    study: Path, tmp_path: Path
) -> None:
    plugin = study.parent / "methods/own.py"
    grid = ["grid", "studies/study.toml", "--jobs", "2", "--threads", "2", "--json"]
    first, said, torch = gifthorse(*grid, cwd=tmp_path)
    assert torch
    assert "2 done" in said
    documents = json.loads(first)
    records = [Record.model_validate(each) for each in documents["records"]]
    assert [(each.attack["name"], list(each.plugins)) for each in records] == [("frame", [str(plugin)]), ("none", [])]
    assert [list(each["plugins"]) for each in documents["populations"]] == [[str(plugin)]]
    assert gifthorse(*grid, cwd=tmp_path)[::2] == (first, False)
    (kept,) = (tmp_path / "gifthorse-runs/studies").iterdir()
    document = json.loads(kept.read_text())
    assert document["study"]["plugins"] == ["methods/own.py"]
    assert document["plugins"] == records[0].plugins

    text = plugin.read_text()
    plugin.write_text(text.replace("1:-1, 1:-1", "2:-2, 2:-2"))
    edited, _, torch = gifthorse(*grid, cwd=tmp_path)
    again = [Record.model_validate(each) for each in json.loads(edited)["records"]]
    assert torch
    assert again[0].id != records[0].id
    assert again[1] == records[1]
    assert json.loads(edited)["populations"][0]["id"] != documents["populations"][0]["id"]
    plugin.write_text(text)
    assert gifthorse(*grid, cwd=tmp_path)[0] == first


def test_what_was_made_with_it_is_read_and_printed_when_it_is_gone(own: Path, tmp_path: Path) -> None:
    for spoilt in (False, True):
        if spoilt:
            own.write_text(own.read_text().replace("1:-1, 1:-1", "2:-2, 2:-2"))
        seeds = "1" if spoilt else "0..1"
        options = ["--profile", "smoke", "--training", "standard[epochs=1]", "--threads", "1", "--defense", "shrinkpad"]
        grid = ["grid", "--plugin", "own.py", "--attack", FRAME, "--seed", seeds, *options]
        assert "frame" in terminal.gifthorse(*grid, cwd=tmp_path).stdout
    own.unlink()
    assert "frame" in terminal.gifthorse("ls", cwd=tmp_path).stdout
    table = terminal.gifthorse("table", cwd=tmp_path).stdout
    assert "frame" in table
    # However the lines are broken.
    assert f"2recordsofothercontentsof{own}areleftout" in "".join(table.split())
    assert "frame" in terminal.gifthorse("table", "--where", "attack=frame", "--format", "json", cwd=tmp_path).stdout
    terminal.gifthorse("report", "--out", "report.html", cwd=tmp_path)
    page = (tmp_path / "report.html").read_text()
    assert page.count(f"gifthorse run \\\n  --plugin {own}") == 3
    assert page.count(f"2 records of other contents of {own} are left out") == 3
    terminal.gifthorse("figures", "--out", "figures", cwd=tmp_path)


def test_a_grid_tells_all_that_is_wrong_with_plugins_and_all_else_with_its_line(study: Path, tmp_path: Path) -> None:
    study.write_text(
        STUDY.replace('"methods/own.py"', '["methods/own.py", "missing.py", "broken.py"]').replace('"none"', '"nome"')
    )
    (study.parent / "broken.py").write_text("x = 1\n1 / 0\n")
    grid = ["grid", "studies/study.toml", "--plugin", "other.py"]
    told = terminal.gifthorse(*grid, cwd=tmp_path, check=2).stderr.splitlines()
    places = ["studies/study.toml, line 2: ", "studies/study.toml, line 2: ", "", "studies/study.toml, line 5: "]
    wrong = [
        "the plugin studies/missing.py cannot be read: No such file or directory",
        "the plugin studies/broken.py cannot be loaded: ZeroDivisionError: division by zero (broken.py, line 2)",
        "the plugin other.py cannot be read: No such file or directory",
        "no attack is called 'nome'",
    ]
    assert len(told) == 4, told
    for line, place, said in zip(told, places, wrong, strict=True):
        assert line.startswith(f"gifthorse: {place}{said}"), line
    assert not (tmp_path / "gifthorse-runs").exists()


@pytest.mark.parametrize("plugins", ['""', "3", '"a\\u0000.py"', "[[]]"])
def test_what_is_no_path_is_refused_in_a_grid_file(plugins: str, study: Path, tmp_path: Path) -> None:
    study.write_text(STUDY.replace('"methods/own.py"', plugins))
    told = terminal.gifthorse("grid", "studies/study.toml", cwd=tmp_path, check=2).stderr
    assert told.startswith("gifthorse: studies/study.toml, line 2: 'plugins' ")


@pytest.mark.parametrize(
    ("source", "complaint"),
    [
        ("x = 1\n\nraise ValueError('of no use')", "own.py cannot be loaded: ValueError: of no use (own.py, line 3)"),
        (None, "own.py cannot be read: No such file or directory"),
    ],
)
@pytest.mark.parametrize(
    "asked", ["run", "grid --attack none", "list", "list attacks", "check frame", "poison --attack frame --out out"]
)
def test_one_that_cannot_be_loaded_is_told(
    source: str | None, complaint: str, asked: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    if source is not None:
        Path("own.py").write_text(source)
    with pytest.raises(RequestError, match=f"^the plugin {re.escape(complaint)}"):
        cli.main([*asked.split(), "--plugin", "own.py"], standalone_mode=False)
    assert [path.name for path in tmp_path.iterdir()] == ["own.py"] * (source is not None)


@pytest.mark.parametrize("asked", ["run", "population", "poison", "grid", "list", "check"])
def test_the_help_says_that_it_is_run(asked: str, capsys: pytest.CaptureFixture[str]) -> None:
    cli.main([asked, "--help"], standalone_mode=False)
    assert "It is run as any program is: name only files that you trust." in " ".join(capsys.readouterr().out.split())


def check(capsys: pytest.CaptureFixture[str], method: str, plugin: Path) -> tuple[str, object]:
    """What is printed, and the exit code."""
    with pytest.raises(SystemExit) as end:
        cli.main(["check", method, "--plugin", str(plugin)], standalone_mode=False)
    return capsys.readouterr().out, end.value.code


@pytest.mark.usefixtures("_forgets_plugins")
@pytest.mark.parametrize(
    ("example", "name"),
    [("own_attack", "frame"), ("own_defense", "blur[size=5]"), ("own_detector", "sliding_square[size=4]")],
)
def test_the_examples_keep_their_promises(example: str, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    printed, code = check(capsys, name, EXAMPLES / f"{example}.py")
    assert code == 0
    assert printed.startswith(name)
    assert printed.count("kept") > 10
    assert "broken" not in printed
    assert "not asked" not in printed


@pytest.mark.usefixtures("_forgets_plugins")
def test_every_broken_promise_is_told_with_its_reason_and_exits_4(
    own: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = own.read_text().replace("\nDiffers: nothing.\n", "\n")
    faults = "torch.rand(1); task.test.pixels[0] = 0; frame = torch.ones("
    own.write_text(text.replace("frame = torch.ones(", faults))
    printed, code = check(capsys, "frame", own)
    assert code == 4
    assert printed.count("broken ") == 3
    said = " ".join(printed.split())
    assert "has no line that begins" in said
    assert "it draws from torch's global random state" in said
    assert "it changes pixels of the task's test images" in said
    assert printed.count("kept ") > 10


@pytest.mark.parametrize(
    ("method", "complaint"),
    [
        ("badnet2", "no attack is called 'badnet2'; did you mean 'badnets'?; no defense is called 'badnet2'"),
        ("badnets[x=1]", "badnets: unknown field 'x'"),
        ("nowhere.to.BeFound", "nowhere.to cannot be imported: ModuleNotFoundError: No module named 'nowhere'"),
        ("gifthorse.attacks:Nope", "gifthorse.attacks.Nope is no attack, defense or analysis that can be run"),
        ("gifthorse.models.small_cnn:SmallCnn", "SmallCnn is no attack, defense or analysis that can be run"),
        ("gifthorse.core.attack.Attack", "Attack is no attack, defense or analysis that can be run"),
        ("gifthorse.attacks.data.badnets:BadNets[x=1]", "badnets: unknown field 'x'"),
    ],
)
def test_what_cannot_be_checked_is_told(method: str, complaint: str) -> None:
    with pytest.raises(RequestError, match=re.escape(complaint)):
        cli.main(["check", method], standalone_mode=False)
