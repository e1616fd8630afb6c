"""Sheets in every format: whatever stands in a record comes out as it is, and every mark is explained."""

import csv
import io
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from rich.cells import cell_len

from gifthorse.report.sheet import WRITERS, Entry, Head, Line, Sheet, to_csv, to_json, to_latex, to_markdown, to_text

HOSTILE = r"a|b \ & % $x$ #1 _y_ {z} ~ ^ * `c` [d](e) <b> -- '' \end{tabular} \\"
SHEET = Sheet(
    caption="attack × defense, ± deviation",
    stubs=("attack",),
    heads=(Head("strip", "TPR (%) ↑"), Head("strip", "FPR (%) ↓"), Head("abs", "Index")),
    lines=(
        Line(("badnets",), (Entry("98.8 ± 0.4"), Entry("5.0", ("x",)), Entry("−2.50"))),
        Line(("targeted_blend",), (Entry("–", ("not run",)), Entry("skipped", ("y", "x")), Entry("–", ("not run",)))),
    ),
    remarks=("a remark",),
    numbers=lambda: [{"attack": "badnets", "mean": 0.988, "seeds": [0, 1]}, {"attack": "x", "mean": None, "seeds": []}],
)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
ANY = st.one_of(TEXTS, st.text("\\|&%$#_{}~^*`[]()<>-'\",!? \n\t\r\x00", max_size=30))


def plain(text: str) -> str:
    """What is printed of a text: all of it, in one line."""
    return " ".join(re.sub(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]", " ", text).split())


def of(text: str) -> Sheet:
    """A sheet with a text wherever one can stand."""
    line = Line((text,), (Entry(text, (text,)),))
    return Sheet(text, (text,), (Head(text, text),), (line,), (text,), lambda: [{text: text}])


def test_text_is_aligned_and_every_mark_is_explained_once() -> None:
    assert to_text(SHEET).splitlines() == [
        "attack × defense, ± deviation",
        "",
        "                strip                          abs",
        "attack          TPR (%) ↑       FPR (%) ↓      Index",
        "────────────────────────────────────────────────────────",
        "badnets         98.8 ± 0.4          5.0 [a]    −2.50",
        "targeted_blend           – [b]  skipped [c,a]      – [b]",
        "",
        "[a] x",
        "[b] not run",
        "[c] y",
        "",
        "a remark",
    ]


def test_markdown_is_a_table_with_notes() -> None:
    lines = to_markdown(SHEET).splitlines()
    assert lines[2] == r"| attack | strip: TPR (%) ↑ | strip: FPR (%) ↓ | abs: Index |"
    assert lines[3] == "| --- | ---: | ---: | ---: |"
    assert lines[4] == "| badnets | 98.8 ± 0.4 | 5.0<sup>a</sup> | −2.50 |"
    assert "<sup>c</sup> y" in lines


def test_latex_has_rules_of_booktabs_and_heads_over_several_columns() -> None:
    text = to_latex(SHEET)
    for said in (
        r"\begin{tabular}{lrrr}",
        r"\toprule",
        r"\midrule",
        r"\bottomrule",
        r" & \multicolumn{2}{c}{strip} & \multicolumn{1}{c}{abs} \\",
        r"\cmidrule(lr){2-3} \cmidrule(lr){4-4}",
        r"attack & TPR (\%) $\uparrow$ & FPR (\%) $\downarrow$ & Index \\",
        r"badnets & 98.8 $\pm$ 0.4 & 5.0\textsuperscript{a} & $-$2.50 \\",
        r"targeted\_blend & \textendash{}\textsuperscript{b} & skipped\textsuperscript{c,a} & \textendash{}",
        r"\textsuperscript{c} y",
    ):
        assert said in text


def test_csv_and_json_have_the_exact_numbers() -> None:
    assert list(csv.reader(io.StringIO(to_csv(SHEET)))) == [
        ["attack", "mean", "seeds"],
        ["badnets", "0.988", "0; 1"],
        ["x", "", ""],
    ]
    found = json.loads(to_json(SHEET))
    assert found["numbers"] == SHEET.numbers()
    assert (found["caption"], found["remarks"]) == (SHEET.caption, ["a remark"])


def test_a_table_without_heads_over_several_columns_has_one_line_of_them() -> None:
    sheet = Sheet("", ("a",), (Head("", "b"),), (Line(("1",), (Entry("2"),)),))
    assert to_text(sheet) == "a  b\n────\n1  2\n"
    assert "multicolumn" not in to_latex(sheet)


def test_many_notes_have_letters_of_their_own() -> None:
    entries = tuple(Entry("–", (f"note {place}",)) for place in range(60))
    marks = Sheet("", (), (), (Line((), entries),)).marks()
    assert list(marks.values())[:3] + list(marks.values())[25:28] + list(marks.values())[51:53] == [
        *"abc",
        "z",
        "aa",
        "ab",
        "az",
        "ba",
    ]
    assert len(set(marks.values())) == 60


@given(ANY)
@example(HOSTILE)
def test_any_text_keeps_its_place_in_text(text: str) -> None:
    lines = to_text(of(text)).splitlines()
    rule = next(line for line in lines if line and set(line) == {"─"})
    assert cell_len(rule) >= 2 * cell_len(plain(text))
    assert all(line.isprintable() or not plain(line).isprintable() for line in lines)


def cells(row: str) -> list[str]:
    """The cells of a row of Markdown, as its readers split and unescape them."""
    assert row.startswith("| ")
    assert row.endswith(" |")
    parts = re.split(r"(?<!\\)((?:\\\\)*)\|", row[1:-1])
    joined = ["".join(parts[place : place + 2]) for place in range(0, len(parts), 2)]
    return [re.sub(r"\\(.)", r"\1", part.strip()) for part in joined]


@given(ANY)
@example(HOSTILE)
@example("\\")
@example("\\|")
def test_any_text_comes_back_from_markdown_and_means_nothing_there(text: str) -> None:
    wanted, lines = plain(text), to_markdown(of(text)).split("\n")
    table = [line for line in lines if line.startswith("| ")]
    assert len(table) == 3
    assert cells(table[0]) == [wanted, plain(f"{text}: {text}") if text else ""]
    assert cells(table[2]) == [wanted, f"{wanted}<sup>a</sup>"]
    for character in "<>*_`[":
        assert not re.search(rf"(?<!\\)(?:\\\\)*{re.escape(character)}(?!/?sup>)", table[0])


@given(ANY)
@example(HOSTILE)
def test_any_text_comes_back_from_csv_and_json(text: str) -> None:
    assert list(csv.reader(io.StringIO(to_csv(of(text)), newline=""))) == [[text], [text]]
    assert json.loads(to_json(of(text)))["numbers"] == [{text: text}]


LATEX = {
    r"\textbackslash{}": "\\",
    r"\textasciitilde{}": "~",
    r"\textasciicircum{}": "^",
    r"\textless{}": "<",
    r"\textgreater{}": ">",
    r"\textbar{}": "|",
    r"\ldots{}": "…",
    r"\textendash{}": "–",
    r"\textemdash{}": "—",
    r"\textquoteright{}": "’",
    r"$\pm$": "±",
    r"$\times$": "×",
    r"$\to$": "→",
    r"$\uparrow$": "↑",
    r"$\downarrow$": "↓",
    r"$\leq$": "≤",
    r"$\geq$": "≥",
    "$-$": "−",
    "$_0$": "₀",
    "{''}": '"',
    "{[}": "[",
    "{]}": "]",
    "{*}": "*",
    **{rf"\{character}": character for character in "&%$#_{}"},
    "{}": "",
}
LATEX_TOKEN = re.compile("|".join(map(re.escape, sorted(LATEX, key=len, reverse=True))))


@given(st.one_of(ANY, st.text("–—’−±×→…", max_size=6)))
@example(HOSTILE)
def test_any_text_comes_back_from_latex_and_commands_nothing_there(text: str) -> None:
    (row,) = [line for line in to_latex(of(text)).split("\n") if line.endswith(r"\textsuperscript{a} \\")]
    label, entry = re.split(r"(?<!\\) & ", row)
    left = LATEX_TOKEN.sub("", label)
    assert not re.search(r"[\\&%$#_{}~^\[\]*<>|\"]", left), left
    assert not re.search("--|(?<!{)''|``", label)
    assert LATEX_TOKEN.sub(lambda found: LATEX[found[0]], label) == plain(text)
    assert entry == label + r"\textsuperscript{a} \\"


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="pdflatex is not installed")
def test_latex_compiles(tmp_path: Path) -> None:
    odd = "".join(chr(code) for code in range(33, 127))
    tables = [SHEET, of(HOSTILE), of(odd), of("[1] * é ü ß"), of("−±×→↑↓≤≥₀–—…’")]
    document = r"\documentclass{article}\usepackage[utf8]{inputenc}\usepackage{booktabs}\begin{document}"
    document += "\n".join(map(to_latex, tables)) + r"\end{document}"
    (tmp_path / "t.tex").write_text(document, encoding="utf-8")
    done = subprocess.run(
        ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "t.tex"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-2000:]
    assert (tmp_path / "t.pdf").stat().st_size > 10_000


@settings(max_examples=30)
@given(st.sampled_from(list(WRITERS)), ANY)
def test_no_text_crashes_a_writer(form: str, text: str) -> None:
    assert WRITERS[form](of(text)).endswith("\n")
