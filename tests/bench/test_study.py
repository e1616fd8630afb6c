"""Grid files: what they ask for, and every problem at once with its line."""

import contextlib
import itertools
import json
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gifthorse.bench.study import MOST, Asked, Study, StudyFile, expand, numbers
from gifthorse.cli.commands import listing
from gifthorse.core.errors import RequestError

LISTING = listing()


def asked(text: str) -> Asked:
    return expand(StudyFile.read(text, "study.toml"), LISTING)


def problems(text: str) -> list[str]:
    with pytest.raises(RequestError) as error:
        asked(text)
    return str(error.value).splitlines()


def test_the_cells_are_the_product_of_the_axes() -> None:
    found = asked('attack = ["badnets", "imc"]\ndefense = ["none", "strip"]\nseed = "0..2"\nprofile = "smoke"')
    keys = [(cell["attack"], cell["defense"], cell["seed"]) for cell in found.cells]
    assert keys == list(itertools.product(["badnets", "imc"], [None, "strip"], [0, 1, 2]))
    assert {cell["profile"] for cell in found.cells} == {"smoke"}
    assert found.populations == ()


def test_one_name_stands_for_a_list_of_one() -> None:
    assert asked('attack = "badnets"\nseed = 3').cells == asked('attack = ["badnets"]\nseed = [3]').cells


def test_a_request_is_what_run_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    from gifthorse.bench.cell import resolve

    (found,) = asked('attack = "badnets"\ndefense = "strip"\nseed = 1\nprofile = "smoke"').cells
    plain = resolve(dataset="digits", attack="badnets", defense="strip", seed=1, profile="smoke")
    assert resolve(**found) == plain


@pytest.mark.parametrize("values", ["[0.05, 0.1]", '"0.05..0.1..0.05"'])
def test_a_sweep_tries_every_value_on_what_has_the_field(values: str) -> None:
    found = asked(f'attack = ["none", "badnets[trigger_size=2]", "esb"]\nsweep.attack.poison_rate = {values}')
    assert [cell["attack"] for cell in found.cells] == [
        "none",
        "badnets[trigger_size=2,poison_rate=0.05]",
        "badnets[trigger_size=2,poison_rate=0.1]",
        "esb",
    ]


def test_two_sweeps_are_crossed_and_their_values_are_of_any_kind() -> None:
    found = asked(
        'attack = "badnets"\ndefense = "strip"\n[sweep.attack]\nmixing = ["batch", "loss"]\n'
        "trigger_position = [[0, 0], [1, 2]]\n[sweep.defense]\nfpr = [0.01]"
    )
    assert {cell["attack"] for cell in found.cells} == {
        f"badnets[mixing={mixing},trigger_position={place}]"
        for mixing in ("batch", "loss")
        for place in ("[0,0]", "[1,2]")
    }
    assert {cell["defense"] for cell in found.cells} == {"strip[fpr=0.01]"}


def test_an_exclusion_leaves_out_by_name_every_setting_and_with_brackets_that_one() -> None:
    text = 'attack = ["badnets", "badnets[poison_rate=0.2]", "imc"]\ndefense = ["strip", "abs"]\n'
    whole = asked(text + '[[exclude]]\nattack = "badnets"\ndefense = "strip"\nreason = "known"')
    assert {(cell["attack"], cell["defense"]) for cell, _ in whole.excluded} == {
        ("badnets", "strip"),
        ("badnets[poison_rate=0.2]", "strip"),
    }
    assert {reason for _, reason in whole.excluded} == {"known"}
    one = asked(text + '[[exclude]]\nattack = "badnets[poison_rate=0.2]"\nreason = "known"')
    assert {cell["attack"] for cell, _ in one.excluded} == {"badnets[poison_rate=0.2]"}
    assert len(one.cells) + len(one.excluded) == 6


def test_downstream_users_stand_beside_the_defenses() -> None:
    found = asked('attack = "badnets"\ndefense = ["none", "strip"]\ndownstream = ["fcn1", "fcn1[tuning=full]"]')
    ends = [(cell["defense"], cell["downstream"]) for cell in found.cells]
    assert ends == [(None, None), ("strip", None), (None, "fcn1"), (None, "fcn1[tuning=full]")]


def test_the_trigger_is_shown_in_every_way_to_every_defense_and_to_no_downstream_user() -> None:
    found = asked(
        'attack = "badnets"\ndefense = ["none", "strip"]\ndownstream = "fcn1"\nstamp = ["none", "amplified"]\n'
    )
    ends = [(cell["defense"], cell["downstream"], cell["stamp"]) for cell in found.cells]
    assert ends == [
        (None, None, None),
        (None, None, "amplified"),
        ("strip", None, None),
        ("strip", None, "amplified"),
        (None, "fcn1", None),
    ]
    swept = asked('attack = "badnets"\nstamp = ["shifted", "flipped"]\nsweep.stamp.down = "0..2"')
    stamps = ["shifted[down=0]", "shifted[down=1]", "shifted[down=2]", "flipped"]
    assert [cell["stamp"] for cell in swept.cells] == stamps
    left = 'attack = "badnets"\nstamp = ["none", "flipped"]\n[[exclude]]\nstamp = "flipped"\nreason = "known"'
    assert [cell["stamp"] for cell in asked(left).cells] == [None]
    (problem,) = problems('attack = "badnets"\nstamp = "flippd"')
    assert "study.toml, line 2: no stamp is called 'flippd'; did you mean 'flipped'?" in problem


def test_a_file_of_populations_alone_asks_for_no_other_cell() -> None:
    found = asked(
        'dataset = ["digits", "mnist"]\n'
        '[[population]]\nattack = ["badnets", "imc"]\ndefense = "abs"\nbenign = 3\nseed = 7'
    )
    assert found.cells == ()
    assert [(each.request["dataset"], each.request["attack"], each.benign) for each in found.populations] == [
        ("digits", "badnets", 3),
        ("digits", "imc", 3),
        ("mnist", "badnets", 3),
        ("mnist", "imc", 3),
    ]
    assert {each.request["seed"] for each in found.populations} == {7}


BAD = """
profile = "smoke"
dataset = ["digits", "mnits"]
attack = ["badnets", "badnetz", "reflection[poison_rate=0.5]", "imc[poison_rat=3]", "]["]
defense = ["none", "strip"]

[sweep.attack]
poison_rate = [0.01, 0.1]

[sweep.defense]
foo = [1]

[[exclude]]
reason = "nothing"

[[population]]
attack = "none"
defense = "strip"
"""


def test_everything_that_is_wrong_is_said_at_once_with_its_line() -> None:
    found = problems(BAD)
    wanted = {
        3: "no dataset is called 'mnits'; did you mean 'mnist'?",
        4: "no attack is called 'badnetz'; did you mean 'badnets'?",
        11: "has a field 'foo'",
        14: "says nothing but its reason",
        17: "'none' plants nothing",
        18: "'strip' is of the family filtering",
    }
    for line, said in wanted.items():
        assert any(each.startswith(f"study.toml, line {line}: ") and said in each for each in found), (line, found)
    assert any("'imc' has no field 'poison_rat'; did you mean 'poison_rate'?" in each for each in found)
    assert any("not of the form" in each for each in found)
    assert len(found) == len(set(found))


def test_a_field_that_is_set_and_swept_is_said() -> None:
    text = 'attack = "badnets[poison_rate=0.5]"\nsweep.attack.poison_rate = [0.01]'
    assert problems(text) == [
        "study.toml, line 2: 'badnets[poison_rate=0.5]' sets 'poison_rate', which is swept as well"
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('attack = "badnets"\nseeds = 3', "study.toml, line 2: there is no key 'seeds'; did you mean 'seed'?"),
        ("[[population]]\nattack = 'imc'\ndefense = 'abs'\nbengn = 1", "line 4: there is no key 'population.bengn'"),
        ('attack = "badnets"\nseed = "1..0"', "the range '1..0' is empty"),
        ('attack = "badnets"\nseed = "0..9999999"', f"over {MOST} numbers"),
        ('attack = "badnets"\nseed = -1', "greater than or equal to 0"),
        ('attack = "badnets"\nseed = true', "valid integer"),
        ("attack = []", "at least 1 item"),
        ("attack = 3", "line 1"),
        ('attack = "badnets"\nprofile = "desktop"', "line 2: no profile is called 'desktop'"),
        ('attack = "badnets"\nseed = "1e999999..1e999999"', "too large"),
        ('attack = "badnets"\nseed = "0..1e308..1e-99999"', "too large"),
        ('attack = "badnets"\nseed = "0..1..1e-999999"', f"over {MOST} numbers"),
        (f"seed = {'9' * 5000}", "study.toml is not TOML: Exceeds the limit"),
        (f"seed = {'[' * 5000}", "study.toml is not TOML: "),
        ("attack = ", "study.toml is not TOML: Invalid value (at end of document)"),
        ('attack = "imc"\nsweep.attacks.x = [1]', "line 2"),
        ('attack = "imc"\nsweep.attack.poison_rate = 0.1', "line 2"),
        ('attack = "imc"\n[[exclude]]\nattack = "imc"\nreason = "all"', "asks for nothing: every one of its 1 cells"),
        ('attack = "imc"\nseed = "0..999999"\ndefense = ["strip", "abs"]', f"{MOST} are the most"),
        ('attack = "badnets"\n[[exclude]]\nattack = "imc"', "'exclude.reason' field required"),
        ('attack = "imc"\n[[table]]\nwhere = ["defense=a,b"]', "line 3: 'table.where' 'a,b' is not of the form name"),
        (
            'attack = "imc"\n[[table]]\nwhere = ["strip"]',
            "line 3: 'table.where' 'strip' is not of the form column=value",
        ),
    ],
)
def test_bad_input_is_a_sentence(text: str, said: str) -> None:
    assert any(said in each for each in problems(text)), problems(text)


@given(st.text(max_size=60))
def test_no_text_breaks_the_reader(text: str) -> None:
    with contextlib.suppress(RequestError):
        asked(text)


@given(
    st.dictionaries(
        st.sampled_from(sorted(Study.model_fields)),
        st.recursive(
            st.none() | st.booleans() | st.integers(-5, 5) | st.floats(allow_nan=True) | st.text(max_size=5),
            lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
            max_leaves=6,
        ),
    )
)
def test_no_values_break_the_study(values: dict[str, Any]) -> None:
    with contextlib.suppress(ValueError):
        expand(StudyFile(Study.model_validate(values)), LISTING)


@given(st.integers(0, 50), st.integers(0, 50), st.integers(1, 7))
def test_a_range_has_both_ends(first: int, length: int, step: int) -> None:
    assert numbers(f"{first}..{first + length * step}..{step}") == [first + i * step for i in range(length + 1)]


def test_a_range_of_decimals_has_no_rounding_in_it() -> None:
    assert numbers("0..0.8..0.1") == [0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8]


def test_the_schema_names_every_key() -> None:
    schema = Study.model_json_schema()
    assert set(schema["properties"]) == set(Study.model_fields)
    assert "description" in schema["properties"]["sweep"]


def test_a_study_is_read_without_torch() -> None:
    code = "import gifthorse.bench.study, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_the_same_study_has_the_same_identity_however_it_is_written() -> None:
    one = StudyFile.read('attack = "badnets"\nseed = "0..1"', "a")
    other = StudyFile.read('# the same\nseed = [0, 1]\nattack = ["badnets"]', "b")
    assert one.identity == other.identity
    assert one.identity != StudyFile.read('attack = "badnets"', "a").identity
    assert json.loads(json.dumps(one.study.model_dump(mode="json")))
