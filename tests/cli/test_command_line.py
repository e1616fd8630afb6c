"""What a person at the terminal meets: answers on standard output, one clear line for a wrong request."""

import json
import logging
import os
import re
import runpy
import signal
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path

import pytest
from PIL import Image

from gifthorse.bench.profiles import read_profile
from gifthorse.cli.live import showing_progress
from gifthorse.core.record import Population, Record
from terminal import gifthorse, gifthorse_afresh

QUICK = ["--dataset", "digits", "--profile", "smoke", "--training", "standard[epochs=2]", "--threads", "1"]


def test_help_teaches_and_imports_no_torch(tmp_path: Path) -> None:
    code = "import sys; sys.argv[0] = 'gifthorse'\nfrom gifthorse.cli.main import cli\n"
    code += "cli.main(['--help'], standalone_mode=False)\nprint('torch' in sys.modules or 'numpy' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "Examples:" in found
    assert "Exit codes:" in found
    assert found.endswith("False\n")


def test_python_m_gifthorse_is_the_same_program(tmp_path: Path) -> None:
    def module(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "gifthorse", *arguments]
        return subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)

    version, wrong, nothing = module("--version"), module("run", "--sed", "3"), module()
    assert (version.returncode, wrong.returncode, nothing.returncode) == (0, 2, 2)
    assert metadata.version("gifthorse") in version.stdout
    assert wrong.stderr.startswith("gifthorse: No such option")
    assert "python -m gifthorse run --help" in wrong.stderr
    # Its own worker processes import it under this name, and must not begin the command again.
    assert "main" in runpy.run_module("gifthorse.__main__", run_name="__mp_main__")


def test_run_json_prints_exactly_one_record_and_the_second_run_is_answered_from_the_store(tmp_path: Path) -> None:
    arguments = ["run", *QUICK, "--attack", "badnets[poison_rate=0.2]", "--defense", "shrinkpad", "--json"]
    first, second = (gifthorse_afresh(*arguments, cwd=tmp_path) for _ in range(2))
    record = Record.from_json(first.stdout)
    assert record.attack["poison_rate"] == 0.2
    assert record.status == "done"
    assert first.stdout == second.stdout
    assert "Traceback" not in first.stderr
    assert (tmp_path / "gifthorse-runs" / "records" / f"{record.id}.json").exists()


def test_run_prints_a_table_for_people(tmp_path: Path) -> None:
    found = gifthorse("run", *QUICK, "--attack", "bn", cwd=tmp_path).stdout
    assert "badnets on digits/small_cnn" in found
    assert "attack success rate" in found


def test_run_names_the_classes_of_a_folder_in_natural_order(tmp_path: Path) -> None:
    for label in range(1, 12):
        (tmp_path / f"data/signs/{label}").mkdir(parents=True)
        for number in range(4):
            Image.new("L", (12, 8), 20 * label + number).save(tmp_path / f"data/signs/{label}/{number}.png")
    request = ["run", *QUICK[2:], "--dataset", "folder[path=signs,size=[8,12],channels=1]", "--model", "small_cnn"]
    found = gifthorse(*request, "--data-root", "data", "--attack", "badnets[target=9]", cwd=tmp_path).stdout
    assert re.search(r"^ *attack\.targets +9 \(10\) +targets *$", found, re.MULTILINE), found


def test_run_tunes_a_new_head_downstream_and_says_so(tmp_path: Path) -> None:
    request = ["run", *QUICK, "--attack", "bn", "--downstream", "1-FCN[epochs=2]"]
    found = gifthorse(*request, cwd=tmp_path).stdout
    assert "fcn1 with partial tuning on digits" in found
    assert re.search(r"^ *downstream\.acc +[01]\.\d{3} +400 +tuned trojan: accuracy", found, re.MULTILINE), found
    assert re.search(r"^ *attack\.targets +0 +targets *$", found, re.MULTILINE), found
    record = Record.from_json(gifthorse(*request, "--json", cwd=tmp_path).stdout)
    assert record.downstream is not None
    assert record.downstream.head["epochs"] == 2


def test_run_shows_the_trigger_otherwise_and_says_so(tmp_path: Path) -> None:
    request = ["run", *QUICK, "--attack", "bn", "--stamp", "amplified[copies=9]"]
    found = gifthorse(*request, cwd=tmp_path).stdout
    assert "no defense, trigger amplified[copies=9], seed 0: done" in found
    assert re.search(r"^ *stamp\.asr +[01]\.\d{3} +360 +trojan, trigger varied: attack success", found, re.MULTILINE), (
        found
    )
    record = Record.from_json(gifthorse(*request, "--json", cwd=tmp_path).stdout)
    assert record.stamp == {"name": "amplified", "copies": 9}
    listed = gifthorse("ls", cwd=tmp_path).stdout
    assert "amplified" in listed


POPULATION = ["population", "--profile", "smoke", "--threads", "1", "--attack", "badnets", "--benign", "2"]
POPULATION += ["--trojaned", "2", "--defense", "neural_cleanse[steps=3]"]


def test_population_json_prints_exactly_one_object_and_the_second_run_is_answered_from_the_store(
    tmp_path: Path,
) -> None:
    first, second = (gifthorse(*POPULATION, "--json", cwd=tmp_path) for _ in range(2))
    said = json.loads(first.stdout)
    assert {"auroc", "auroc_interval", "tpr_at_fpr", "suspect_hit_rate"} <= said.keys()
    assert (said["n_benign"], said["n_trojaned"]) == (2, 2)
    assert said["tpr_at_fpr"] == {}
    assert first.stdout == second.stdout
    assert "Traceback" not in first.stderr
    store = tmp_path / "gifthorse-runs"
    assert len(list((store / "records").iterdir())) == 4
    path = store / "populations" / f"{said['id']}.json"
    assert Population.from_json(path.read_text()) == Population.from_json(first.stdout)


def test_population_prints_a_table_for_people_and_what_was_left_out(tmp_path: Path) -> None:
    weak = [*POPULATION, "--attack", "badnets[poison_rate=0.01,transparency=0.95]"]
    found = gifthorse(*weak, cwd=tmp_path).stdout
    assert "neural_cleanse on 2 benign and 0 trojaned models" in found
    assert "left out (trojaned, seed 1): the attack did not take: success rate" in found
    assert "AUROC" not in found


def test_population_tells_every_index_with_its_interval(tmp_path: Path) -> None:
    found = gifthorse(*POPULATION, cwd=tmp_path).stdout
    assert "TPR at FPR 0.05" in found
    assert "n too small for a TPR at FPR 0.05: 20 benign models would do" in found
    assert "flagged benign models: " in found
    for name in ("defense.index", "defense.aiv_log", "defense.aiv_ratio"):
        assert re.search(rf"{name} +[01]\.\d{{3}} \[[01]\.\d{{3}}, [01]\.\d{{3}}\]", found), found
    assert "flagged benign models: " in found
    assert re.search(r"target has the highest score: [01]\.\d+ \[.*\] of 2 trojaned models", found)


def test_population_says_where_the_benign_models_are_twins_and_each_can_be_asked_for(tmp_path: Path) -> None:
    again = [*POPULATION, "--attack", "badnets[origin=benign,epochs=1,lr=0.01]", "--benign", "1", "--trojaned", "1"]
    trained = "schedule[origin=benign,epochs=1,lr=0.01,set_aside=null,share=1.0,fixed=[]]"
    found = gifthorse(*again, cwd=tmp_path).stdout
    assert f"benign models: the trojans' benign twins, trained as long ({trained})" in " ".join(found.split())
    assert "twin" not in gifthorse(*POPULATION, "--benign", "1", "--trojaned", "1", cwd=tmp_path).stdout
    records = len(list((tmp_path / "gifthorse-runs" / "records").iterdir()))
    alone = ["run", "--profile", "smoke", "--defense", "neural_cleanse[steps=3]", "--attack"]
    said = gifthorse(*alone, "none[trained=schedule[epochs=1,lr=0.01]]", cwd=tmp_path).stdout
    title = f"none[trained={trained}] on digits/small_cnn, neural_cleanse, seed 0: done"
    assert " ".join(said.split()).startswith(title)
    assert len(list((tmp_path / "gifthorse-runs" / "records").iterdir())) == records


BREAK = "from gifthorse.defenses.inspection.neural_cleanse import NeuralCleanse as N\n"


@pytest.mark.parametrize(
    ("change", "code", "said"),
    [
        ("N.skip = lambda *_: 'needs a miracle'", 0, "left out (benign, seeds 0, 1, skipped): needs a miracle"),
        (
            "N.defend = lambda *_: 1 / 0",
            4,
            "left out (benign, seeds 0, 1, failed): ZeroDivisionError: division by zero",
        ),
    ],
)
def test_population_exits_4_where_a_cell_failed_and_0_where_all_were_skipped_for_a_reason(
    change: str, code: int, said: str, tmp_path: Path
) -> None:
    asked = [*POPULATION, "--training", "standard[epochs=1]"]
    found = gifthorse(*asked, cwd=tmp_path, check=code, before=f"{BREAK}{change}")
    assert said in found.stdout
    assert ("gifthorse: 4 cells failed" in found.stderr) is (code == 4)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["run", "--attack", "badnet2"], "no attack is called 'badnet2'; did you mean 'badnets'?"),
        (["run", "--defense", "stripe"], "no defense is called 'stripe'; did you mean 'strip'?"),
        (["run", "--dataset", "minst"], "did you mean 'mnist'?"),
        (["run", "--model", "smal_cnn"], "did you mean 'small_cnn'?"),
        (["run", "--training", "dhb"], "no training recipe is called 'dhb'; did you mean 'dhbe'?"),
        (["run", "--training", "zzz"], "listed: adversarial, aegis, aegis_mnist, aegis_mnist_standard,"),
        (["run", "--training", "dhbe[epochs=20]"], "the training ends after 20 epochs, so that the milestone 150"),
        (["run", "--attack", "badnets[poison_rat=0.1]"], "unknown field 'poison_rat'; did you mean 'poison_rate'?"),
        (["run", "--attack", "badnets[poison_rate=7]"], "poison_rate=7: input should be less than 1"),
        (["run", "--attack", "badnets[trigger_size=big]"], 'trigger_size="big": input should be a valid integer'),
        (["run", "--attack", "badnets[trigger_size=3"], "is not of the form name or name[field=value"),
        (["run", "--attack", "badnets[trigger_size]"], "not of the form field=value"),
        (["run", "--attack", "badnets[target=10]"], "target=10 is not a class: there are 10 (0 to 9)"),
        (["run", "--attack", "badnets[trigger_size=40]"], "does not fit an image of 16×16"),
        (["run", "--attack", "badnets[poison_rate=0.0001]"], "selects none of 1197 training images"),
        (["run", "--dataset", "digits[train=5000]"], "1797 images"),
        (["run", "--dataset", "mnist", "--data-root", "nowhere"], "nowhere/MNIST/raw"),
        (["run", "--downstream", "svm[tuning=full]"], 'tuning="full": this head passes no gradient'),
        (["run", "--downstream", "fcn1", "--defense", "strip"], "cannot be combined"),
        (["run", "--downstream", "fcn1", "--downstream-dataset", "digits[size=8]"], "its images are 1×8×8"),
        (["run", "--stamp", "amplified[copies=5]"], "copies=5: input should be 4 or 9"),
        (["run", "--stamp", "shift"], "no stamp is called 'shift'; did you mean 'shifted'?"),
        (["run", "--stamp", "shifted[down=40]"], "down=40 moves the trigger out of images of 16×16"),
        (["run", "--stamp", "flipped", "--downstream", "fcn1"], "cannot be combined"),
        (["run", "--seed", "-1"], "-1 is not in the range"),
        (["run", "--profile", "huge"], "'huge' is not one of"),
        (["run", "--device", "abacus"], "--device abacus"),
        (["run", "--bogus"], "No such option"),
        (["population", "--attack", "none", "--defense", "nc"], "'none' plants nothing"),
        (["population", "--attack", "bn", "--defense", "strip"], "strip is of the family filtering"),
        (["population", "--attack", "bn", "--defense", "none"], "a population needs a defense that inspects models"),
        (["population", "--attack", "bn", "--defense", "nc", "--benign", "0"], "0 is not in the range"),
        (["population", "--attack", "badnets[trigger_size=40]", "--defense", "nc"], "does not fit an image of 16×16"),
        (["population", "--attack", "bn"], "Missing option '--defense'"),
        (["list", "attacks", "nope"], "no attack is called 'nope'"),
        (["list", "metrics", "nope"], "nothing under metrics is called 'nope'"),
        (["list", "planets"], "'planets' is not one of"),
        (["report"], "there is no store at"),
        (["report", "--out", "r.tex"], "'gifthorse table --format latex' writes tables"),
        (["report", "--out", "r"], "'gifthorse export' every record flat"),
        (["report", "--split", "--out", "r.html"], "--split writes a folder; name it without .html"),
        (["analyze", "--with", "nsr,"], "--with names no analysis: 'nsr,'; 'gifthorse list analyses' shows all"),
        (["analyze", "--with", ""], "--with names no analysis: ''; 'gifthorse list analyses' shows all"),
        (["analyze", "--json", "--with", " "], "--with names no analysis: ' '; 'gifthorse list analyses' shows all"),
        (["quickstart", "--out", "r.pdf"], "a report is HTML and its name ends in .html"),
        (["fly"], "No such command 'fly'"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_wrong_request_is_one_clear_line_exit_code_2_and_nothing_written(
    arguments: list[str], complaint: str, tmp_path: Path
) -> None:
    found = gifthorse(*arguments, cwd=tmp_path, check=2)
    assert found.stdout == ""
    assert found.stderr.startswith("gifthorse: ")
    assert found.stderr.count("\n") == 1
    assert complaint in found.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_missing_data_set_says_how_to_get_it(tmp_path: Path) -> None:
    found = gifthorse("run", "--dataset", "cifar10", cwd=tmp_path, check=2).stderr
    assert str(tmp_path / "data" / "cifar-10-batches-py") in found
    assert "--data-root" in found
    assert "--download" in found


def test_list_kinds_as_json(tmp_path: Path) -> None:
    for kind in ("attacks", "defenses", "models", "datasets", "recipes", "heads", "stamps", "transformations"):
        listed = json.loads(gifthorse("list", kind, "--json", cwd=tmp_path).stdout)
        for about in listed:
            assert {"name", "aliases", "paper", "fields"} <= about.keys()
            assert all({"name", "type", "default", "range", "help"} <= field.keys() for field in about["fields"])
        assert kind != "defenses" or all("family" in about for about in listed)
    listed = json.loads(gifthorse("list", "metrics", "asr", "--json", cwd=tmp_path).stdout)
    assert [about["name"] for about in listed] == [
        "benign.asr",
        "attack.asr",
        "defense.asr",
        "downstream.asr",
        "stamp.asr",
    ]
    (exact,) = json.loads(gifthorse("list", "metrics", "attack.asr", "--json", cwd=tmp_path).stdout)
    assert exact["summary"].startswith("trojan: attack success rate – share of stamped test images")
    assert all({"summary", "subject", "unit", "higher_is_better"} <= about.keys() for about in listed)


def test_list_one_thing_shows_its_fields(tmp_path: Path) -> None:
    found = gifthorse("list", "attacks", "bn", cwd=tmp_path).stdout
    assert "arXiv:1708.06733" in found
    assert "poison_rate" in found
    assert "trigger_pattern" in found
    assert "[row, column]" in " ".join(found.split())


def test_lists_the_papers_recipes_by_name_with_what_they_stand_for(tmp_path: Path) -> None:
    every = "".join(gifthorse("list", "recipes", cwd=tmp_path).stdout.split())
    presets = read_profile("paper")["presets"]["training"]
    assert {"dhbe", "trojanzoo", "rethink_vgg19", "aegis"} <= presets.keys()
    assert [name for name, request in presets.items() if name + request not in every] == []
    found = gifthorse("list", "recipes", "trojanzoo", cwd=tmp_path).stdout
    assert found.startswith(f"trojanzoo: {presets['trojanzoo']}\n")
    (about,) = json.loads(gifthorse("list", "recipes", "dhbe", "--json", cwd=tmp_path).stdout)
    values = {field["name"]: field["default"] for field in about["fields"]}
    assert (values["epochs"], values["schedule"], values["weight_decay"]) == (200, [100, 150], 5e-4)


def test_the_environment_names_store_and_data(tmp_path: Path) -> None:
    gifthorse("run", *QUICK, cwd=tmp_path, GIFTHORSE_STORE="elsewhere")
    assert (tmp_path / "elsewhere" / "records").is_dir()
    found = gifthorse("run", "--dataset", "mnist", cwd=tmp_path, check=2, GIFTHORSE_DATA="images")
    assert str(tmp_path / "images") in found.stderr


def test_an_interrupted_run_exits_130_and_the_next_one_continues(tmp_path: Path) -> None:
    """Interrupted while the trojan trains: the benign model is kept and not trained again."""
    request = ["run", *QUICK, "--attack", "badnets[origin=benign,epochs=5000]", "--json"]
    command = [sys.executable, "-c", "from gifthorse.cli.main import main; main()", *request]
    process = subprocess.Popen(
        command,
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A shell that started the tests in the background has told its children to ignore the interrupt.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    artifacts = tmp_path / "gifthorse-runs" / "artifacts"
    deadline = time.monotonic() + 120
    while not (benign := list(artifacts.glob("benign/*.safetensors"))) and time.monotonic() < deadline:
        time.sleep(0.1)
    # Python swallows an interrupt that comes while an object is being finalised; a person presses the keys again.
    while process.poll() is None and time.monotonic() < deadline:
        process.send_signal(signal.SIGINT)
        time.sleep(2)
    process.kill()
    out, err = process.communicate()
    assert process.returncode == 130
    assert out == ""
    assert err.strip() == "gifthorse: interrupted; what was finished is kept: run the same command again to continue"
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == benign
    before = benign[0].stat().st_mtime_ns
    gifthorse("run", *QUICK, "--attack", "badnets[origin=benign,epochs=1]", cwd=tmp_path)
    assert benign[0].stat().st_mtime_ns == before


def test_a_kept_result_that_was_computed_otherwise_says_so_in_a_line(tmp_path: Path) -> None:
    """With another number of threads the same seed gives other weights under the same id."""
    asked = ["run", *QUICK, "--attack", "badnets"]
    assert "elsewhere" not in gifthorse(*asked, cwd=tmp_path).stderr
    assert gifthorse(*asked, cwd=tmp_path).stderr == ""
    said = (
        "computed elsewhere (with 1 thread, here 2 threads): numbers may differ a little; --fresh computes anew here\n"
    )
    again = gifthorse(*asked, "--threads", "2", "--json", cwd=tmp_path)
    assert again.stderr == f"gifthorse: the kept result was {said}"
    assert json.loads(again.stdout)["environment"]["threads"] == 1
    grid = ["--attack", "badnets", "--defense", "none", "--defense", "shrinkpad", "--profile", "smoke"]
    grid = ["grid", *grid, "--training", "standard[epochs=2]", "--threads", "1"]
    gifthorse(*grid, cwd=tmp_path)
    assert f"gifthorse: 2 of 2 kept results were {said}" in gifthorse(*grid, "--threads", "2", cwd=tmp_path).stderr
    # Each of two processes has one.
    assert "elsewhere" not in gifthorse(*grid, "--threads", "2", "--jobs", "2", cwd=tmp_path).stderr


SIGNALLED = """
import os, signal
signal.signal(signal.{name}, signal.{before})
from gifthorse.cli import main
main.cli.main = lambda **_: os.kill(os.getpid(), signal.{name})
main.main()
"""


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_whatever_ends_a_program_ends_it_as_ctrl_c_does_unless_it_is_to_be_ignored(name: str, tmp_path: Path) -> None:
    """Nohup lets SIGHUP be ignored: what runs under it goes on when the terminal is closed."""

    def ended(before: str, errors: int = subprocess.PIPE) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, "-c", SIGNALLED.format(name=name, before=before)]
        return subprocess.run(command, cwd=tmp_path, stderr=errors, text=True, timeout=60)

    found = ended("SIG_DFL")
    assert found.returncode == 130
    assert found.stderr == "gifthorse: interrupted; what was finished is kept: run the same command again to continue\n"
    assert ended("SIG_IGN").returncode == 0
    reader, writer = os.pipe()
    os.close(reader)
    try:
        assert ended("SIG_DFL", writer).returncode == 130
    finally:
        os.close(writer)


def test_a_warning_is_one_line_of_a_log_file(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """However long: a path is copied whole."""
    path = "/".join(["long", *(["folder"] * 40), "[file] with spaces :smile:.json"])
    with showing_progress():
        logging.getLogger("gifthorse").warning("%s is damaged (%s); computing it anew", path, "cut")
    assert capfd.readouterr().err == f"warning: {path} is damaged (cut); computing it anew\n"


def test_two_processes_may_run_the_same_cell_at_once(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "from gifthorse.cli.main import main; main()", "run", *QUICK]
    command += ["--attack", "badnets", "--defense", "shrinkpad", "--json"]
    both = [subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    records = [Record.from_json(process.communicate(timeout=300)[0]) for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert records[0].metrics == records[1].metrics
    assert len(list((tmp_path / "gifthorse-runs" / "records").iterdir())) == 1


def test_report_writes_one_file_about_the_store(tmp_path: Path) -> None:
    gifthorse("run", *QUICK, "--attack", "badnets", "--defense", "shrinkpad", cwd=tmp_path)
    gifthorse("report", "--out", "r.html", cwd=tmp_path)
    text = (tmp_path / "r.html").read_text()
    assert text.lower().startswith("<!doctype html>")
    assert "badnets" in text
    assert gifthorse("report", "--out", "r.html/r.html", cwd=tmp_path, check=2).stderr.count("\n") == 1
    assert (tmp_path / "r.html").read_text() == text


def test_a_split_report_is_a_folder_that_the_next_one_replaces(tmp_path: Path) -> None:
    for attack in ("none", "badnets"):
        gifthorse("run", *QUICK, "--attack", attack, "--defense", "shrinkpad", cwd=tmp_path)
    said = gifthorse("report", "--split", cwd=tmp_path).stderr
    folder = tmp_path / "gifthorse-report"
    assert said == f"report: {folder / 'index.html'} (2 cells, 3 pages)\n"
    pages = sorted(path.name for path in folder.iterdir())
    assert pages == ["attack-001-none.html", "attack-002-badnets.html", "index.html"]
    (folder / "attack-009-gone.html").touch()
    gifthorse("report", "--split", cwd=tmp_path)
    assert sorted(path.name for path in folder.iterdir()) == pages
    (folder / "notes.txt").touch()
    assert "other things" in gifthorse("report", "--split", cwd=tmp_path, check=2).stderr
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "attack-plan.html").touch()
    assert "other things" in gifthorse("report", "--split", "--out", "mine", cwd=tmp_path, check=2).stderr
    assert [path.name for path in mine.iterdir()] == ["attack-plan.html"]


def test_a_store_of_populations_alone_has_a_report(tmp_path: Path) -> None:
    requested = ("--attack", "badnets", "--defense", "neuron_inspect", "--benign", "1", "--trojaned", "1")
    gifthorse("population", *QUICK, *requested, cwd=tmp_path)
    for record in (tmp_path / "gifthorse-runs" / "records").iterdir():
        record.unlink()
    said = gifthorse("report", cwd=tmp_path).stderr
    assert said.endswith("gifthorse-report.html (1 population)\n")
    assert "neuron_inspect" in (tmp_path / "gifthorse-report.html").read_text()
