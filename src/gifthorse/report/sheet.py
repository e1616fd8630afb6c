"""A sheet: a table that is ready to be written, as text, LaTeX, Markdown, CSV or JSON; what is marked is explained."""

import csv
import io
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from string import ascii_lowercase
from textwrap import fill
from typing import Any

from rich.cells import cell_len

WIDTH = 100
"""The longest line of a caption or a footnote."""


@dataclass(frozen=True)
class Entry:
    """What stands in a cell, and what has to be said of it."""

    text: str
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Head:
    """What stands over a column: the name that it shares with its neighbours, and its own."""

    group: str
    name: str


@dataclass(frozen=True)
class Line:
    """A row: its labels and its entries."""

    labels: tuple[str, ...]
    entries: tuple[Entry, ...]


@dataclass(frozen=True)
class Sheet:
    """A table: ``stubs`` head the labels, ``heads`` the entries; ``remarks`` are about all of it.

    ``numbers`` gives the same exactly, in lines that are JSON-ready and have equal keys. CSV and JSON are made of them,
    everything else of the entries.
    """

    caption: str
    stubs: tuple[str, ...]
    heads: tuple[Head, ...]
    lines: tuple[Line, ...]
    remarks: tuple[str, ...] = ()
    numbers: Callable[[], Sequence[Mapping[str, Any]]] = tuple

    def marks(self) -> dict[str, str]:
        """Return the letters of the notes, in the order in which they come: equal notes share theirs."""
        notes = dict.fromkeys(note for line in self.lines for entry in line.entries for note in entry.notes)
        return {note: _letters(place) for place, note in enumerate(notes)}


def to_text(sheet: Sheet) -> str:
    """Return aligned columns for a terminal or a mail."""
    marks, groups = sheet.marks(), list(_once(head.group for head in sheet.heads))
    columns = [
        _column(["", stub, *(line.labels[place] for line in sheet.lines)], []) for place, stub in enumerate(sheet.stubs)
    ]
    for place, head in enumerate(sheet.heads):
        entries = [line.entries[place] for line in sheet.lines]
        columns.append(
            _column([groups[place], head.name], [(each.text, _raised(each, marks, " [{}]")) for each in entries])
        )
    above, names, *rows = ("  ".join(row).rstrip() for row in zip(*columns, strict=True))
    rule = "─" * max(map(cell_len, [above, names, *rows]))
    notes = (f"[{mark}] {_plain(note)}" for note, mark in marks.items())
    blocks = (
        [fill(_plain(sheet.caption), WIDTH)] if sheet.caption else [],
        [*([above] if any(groups) else []), names, rule, *rows],
        [fill(text, WIDTH, subsequent_indent="    ") for text in notes],
        [fill(_plain(remark), WIDTH) for remark in sheet.remarks],
    )
    return "\n\n".join("\n".join(block) for block in blocks if block) + "\n"


def to_markdown(sheet: Sheet) -> str:
    """Return a table as GitHub and most others draw it, with the notes below."""
    marks = sheet.marks()

    def row(texts: Iterable[str]) -> str:
        return f"| {' | '.join(texts)} |"

    heads = [
        f"{head.group}: {head.name}" if head.group and head.name else head.group or head.name for head in sheet.heads
    ]
    lines = [row(map(_markdown, [*sheet.stubs, *heads]))]
    lines.append(row([*("---" for _ in sheet.stubs), *("---:" for _ in heads)]))
    for line in sheet.lines:
        entries = (_markdown(entry.text) + _raised(entry, marks, "<sup>{}</sup>") for entry in line.entries)
        lines.append(row([*map(_markdown, line.labels), *entries]))
    notes = [f"<sup>{mark}</sup> {_markdown(note)}" for note, mark in marks.items()]
    return "\n\n".join([_markdown(sheet.caption), "\n".join(lines), *notes, *map(_markdown, sheet.remarks)]) + "\n"


def to_latex(sheet: Sheet) -> str:
    """Return a ``table`` for LaTeX, which needs the package booktabs."""
    marks, first = sheet.marks(), len(sheet.stubs)
    lines = []
    if any(head.group for head in sheet.heads):
        spans, rules, place = [], [], first + 1
        for group, members in groupby(sheet.heads, lambda head: head.group):
            width = len(list(members))
            spans.append(rf"\multicolumn{{{width}}}{{c}}{{{_latex(group)}}}")
            rules.append(rf"\cmidrule(lr){{{place}-{place + width - 1}}}")
            place += width
        lines += [" & ".join([*("" for _ in sheet.stubs), *spans]) + r" \\", " ".join(rules)]
    lines.append(" & ".join(map(_latex, [*sheet.stubs, *(head.name for head in sheet.heads)])) + r" \\")
    lines.append(r"\midrule")
    for line in sheet.lines:
        entries = (_latex(entry.text) + _raised(entry, marks, r"\textsuperscript{{{}}}") for entry in line.entries)
        lines.append(" & ".join([*map(_latex, line.labels), *entries]) + r" \\")
    notes = [rf"\textsuperscript{{{mark}}} {_latex(note)}" for note, mark in marks.items()]
    below = [
        rf"\par\smallskip\parbox{{\linewidth}}{{\footnotesize {text}}}"
        for text in [*notes, *map(_latex, sheet.remarks)]
    ]
    return "\n".join(
        [
            r"% needs \usepackage{booktabs}",
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{_latex(sheet.caption)}}}",
            rf"\begin{{tabular}}{{{'l' * first}{'r' * len(sheet.heads)}}}",
            r"\toprule",
            *lines,
            r"\bottomrule",
            r"\end{tabular}",
            *below,
            r"\end{table}",
            "",
        ]
    )


def to_csv(sheet: Sheet) -> str:
    """Return the numbers, a line each, exact; several of a kind in one field are separated by ``; ``."""
    lines = sheet.numbers()
    rows = [list(dict.fromkeys(name for line in lines for name in line))]
    rows += [
        ["; ".join(map(str, each)) if isinstance(each, list) else each for each in line.values()] for line in lines
    ]
    return "".join(map(_csv, rows))


def to_json(sheet: Sheet) -> str:
    """Return the numbers, exact, with the caption and the remarks."""
    document = {"caption": sheet.caption, "remarks": list(sheet.remarks), "numbers": list(sheet.numbers())}
    return json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


WRITERS: dict[str, Callable[[Sheet], str]] = {
    "text": to_text,
    "latex": to_latex,
    "csv": to_csv,
    "markdown": to_markdown,
    "json": to_json,
}

_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_MARKDOWN = re.compile(r"[\\`*_\[\]<>|~&$#]")
_LIGATURE = re.compile(r"(?<=[-'`,!?])(?=[-'`,])")
"""Between characters that LaTeX would draw as one: two hyphens as a dash."""
_LATEX = {
    **{character: rf"\{character}" for character in "&%$#_{}"},
    # In braces: what follows the end of a row would be taken for its argument.
    **{character: f"{{{character}}}" for character in "[]*"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': "{''}",
    "−": "$-$",
    "±": r"$\pm$",
    "×": r"$\times$",
    "→": r"$\to$",
    "↑": r"$\uparrow$",
    "↓": r"$\downarrow$",
    "≤": r"$\leq$",
    "≥": r"$\geq$",
    "₀": "$_0$",
    "–": r"\textendash{}",
    "—": r"\textemdash{}",
    "…": r"\ldots{}",
    "’": r"\textquoteright{}",
}


def _plain(text: str) -> str:
    """Return a text in one line."""
    return " ".join(_UNPRINTABLE.sub(" ", text).split())


def _csv(fields: Sequence[Any]) -> str:
    out = io.StringIO()
    # With its own end of lines the module quotes whatever another reader may take for one.
    csv.writer(out).writerow(fields)
    return out.getvalue().removesuffix("\r\n") + "\n"


def _markdown(text: str) -> str:
    return _MARKDOWN.sub(lambda found: f"\\{found[0]}", _plain(text))


def _latex(text: str) -> str:
    parts = _LIGATURE.split(_plain(text))
    return "{}".join("".join(_LATEX.get(character, character) for character in part) for part in parts)


def _once(texts: Iterable[str]) -> Iterator[str]:
    """Yield each text where it begins, and nothing where it goes on."""
    for _, run in groupby(texts):
        first, *others = run
        yield from (first, *("" for _ in others))


def _column(left: Iterable[str], entries: Iterable[tuple[str, str]]) -> list[str]:
    """Return texts of one width: some from the left, and under them others to the right with their marks behind."""
    printed = [(_plain(text), mark) for text, mark in entries]
    wide = max((cell_len(text) for text, _ in printed), default=0)
    whole = [*map(_plain, left), *(" " * (wide - cell_len(text)) + text + mark for text, mark in printed)]
    width = max(map(cell_len, whole))
    return [text + " " * (width - cell_len(text)) for text in whole]


def _raised(entry: Entry, marks: Mapping[str, str], form: str) -> str:
    return form.format(",".join(marks[note] for note in entry.notes)) if entry.notes else ""


def _letters(place: int) -> str:
    """Return a, b, … for 0, 1, …, and aa after z."""
    before, last = divmod(place, 26)
    return (_letters(before - 1) if before else "") + ascii_lowercase[last]
