"""Sheets of pictures: triggers alone, stamped images with what the model makes of them, and recovered triggers."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial

import numpy as np
from matplotlib.figure import Figure

from gifthorse.core.record import Record
from gifthorse.report.drawings.material import Drawing, Material, Part, cells, file_name
from gifthorse.report.evidence import Arrays, drawable, mask_norms, matted, suspect_of, true_targets
from gifthorse.report.figures import recovered_triggers
from gifthorse.report.naming import class_label
from gifthorse.report.tiles import Tile, TileRow, gray, shortened, tile_sheet

IN_A_ROW = 6
"""Most attacks, or recovered triggers, side by side."""
_LETTERS = 16
"""Most letters of a class's name, with its number."""

Evidence = Callable[[str], Arrays]


def triggers(material: Material) -> Iterator[Drawing]:
    """Yield a drawing for each group of records: the triggers of all of its attacks, of one seed each."""
    for part in material.parts():
        firsts: dict[str, Record] = {}
        for attack, members in _trojans(part):
            if members[0].metrics.get("attack.targets"):
                firsts.setdefault(attack, members[0])
        if firsts:
            draw = partial(_draw_triggers, firsts, part.about, material.evidence)
            yield Drawing(file_name("triggers", *part.place), draw)


def stamped(material: Material) -> Iterator[Drawing]:
    """Yield a drawing for each trojan: an attack and a seed."""
    for part in material.parts():
        for attack, members in _trojans(part):
            name = file_name("stamped", *part.place, attack, f"seed{members[0].seed}")
            yield Drawing(name, partial(_draw_stamped, part, members, material.evidence))


def recovered(material: Material) -> Iterator[Drawing]:
    """Yield a drawing for each cell whose defense inspects models."""
    for record, name, what in cells(material, "recovered", lambda record: "defense.index" in record.metrics):
        yield Drawing(name, partial(_draw_recovered, record, what, material.evidence))


def _trojans(part: Part) -> Iterator[tuple[str, list[Record]]]:
    """Yield the finished records of each trojan, with its attack's label."""
    found: dict[tuple[str, int], list[Record]] = {}
    for record in part.records:
        if record.status == "done":
            found.setdefault((part.attack(record), record.seed), []).append(record)
    for (attack, _), members in found.items():
        yield attack, members


def _draw_triggers(firsts: Mapping[str, Record], what: str, evidence: Evidence) -> Figure | None:
    wanted = ("clean", "stamped", "trigger")
    alike: dict[tuple[str, bytes], list[str]] = {}
    columns, seeds = [], set()
    for attack, record in firsts.items():
        arrays = evidence(record.id)
        if all(name in arrays and drawable(arrays[name]) for name in wanted):
            attacks = alike.setdefault((attack.partition("[")[0], arrays["trigger"].tobytes()), [])
            if not attacks:
                columns.append(_trigger_column(arrays))
            attacks.append(attack)
            seeds.add(record.seed)
    if not columns:
        return None
    heads = [
        _over_lines(attacks[0]) if len(attacks) == 1 else f"{name}\n{len(attacks)} settings"
        for (name, _), attacks in alike.items()
    ]
    rows = [
        TileRow(label, tuple(column[row] for column in columns[some]), () if row else tuple(heads[some]))
        for some in (slice(start, start + IN_A_ROW) for start in range(0, len(columns), IN_A_ROW))
        for row, label in enumerate(("clean", "stamped", "stamped − clean", "trigger on gray", "opacity", "pattern"))
    ]
    note = f"{what}, seed {', '.join(map(str, sorted(seeds)))}; n = 1 image of each attack; "
    note += (
        "stamped − clean: gray 0, black and white ± as written, of full brightness; opacity: black 0, white as written"
    )
    return tile_sheet(rows, note)


def _trigger_column(arrays: Arrays) -> list[Tile]:
    """Return a stamped image, how it differs from the clean one, and the trigger without an image."""
    clean, stamped = (arrays[name][0].astype(float) / 255 for name in ("clean", "stamped"))
    change, (opacity, pattern) = stamped - clean, matted(arrays["trigger"])
    largest, densest = (max(float(each.max()), 1 / 255) for each in (np.abs(change), opacity.mean(0)))
    return [
        Tile(arrays["clean"][0]),
        Tile(arrays["stamped"][0]),
        Tile(gray(0.5 + 0.5 * change / largest), f"±{largest:.2f}"),
        Tile(gray(arrays["trigger"].mean(0) / 255)),
        Tile(gray(opacity.mean(0, keepdims=True) / densest), f"{densest:.2f}"),
        Tile(gray(pattern)),
    ]


def _draw_stamped(part: Part, records: Sequence[Record], evidence: Evidence) -> Figure | None:
    names, count, rows = records[0].class_names, 0, list[TileRow]()
    for record in records:
        arrays = evidence(record.id)
        if not ("labels" in arrays and drawable(arrays["clean"])):
            continue
        truth, targets = arrays["labels"], arrays.get("targets")
        if not rows:
            count = len(truth)
            rows.append(_labelled("clean", arrays["clean"], truth, arrays["clean_predictions"], None, names))
            if targets is not None:
                said = arrays["stamped_predictions"]
                rows.append(_labelled("stamped", arrays["stamped"], truth, said, targets, names))
        if record.defense is not None and record.stamp is None and "defended_predictions" in arrays:
            label = "after\n" + _over_lines(part.defense(record))
            said = arrays["defended_predictions"]
            rows.append(_labelled(label, arrays.get("reformed"), truth, said, targets, names))
    if not rows:
        return None
    what = f"{part.attack(records[0])}, {part.about}, seed {records[0].seed}"
    return tile_sheet(rows, f"{what}; n = {count} images; true → predicted class; framed, ▲: the attacker’s target")


def _labelled(
    label: str,
    pictures: np.ndarray | None,
    truth: np.ndarray,
    predicted: np.ndarray,
    targets: np.ndarray | None,
    names: Sequence[str],
) -> TileRow:
    """Return pictures, or their captions alone, with the classes in question; marked where a target was reached."""
    tiles = []
    for index, (true, said) in enumerate(zip(truth.tolist(), predicted.tolist(), strict=True)):
        hit = targets is not None and said == targets[index]
        first, second = (shortened(class_label(each, names), _LETTERS) for each in (true, said))
        between = " " if len(first + second) <= 4 else "\n"
        caption = f"{first}{between}→ {second}{' ▲' if hit else ''}"
        tiles.append(Tile(None if pictures is None else pictures[index], caption, hit))
    return TileRow(label, tuple(tiles))


def _draw_recovered(record: Record, what: str, evidence: Evidence) -> Figure | None:
    arrays = evidence(record.id)
    masks, patterns = arrays.get("masks"), arrays.get("patterns")
    if masks is None or patterns is None or len(masks) != len(patterns) or not (drawable(masks) and drawable(patterns)):
        return None
    norms, suspect, names = mask_norms(masks), suspect_of(record), record.class_names
    targets = [target for target in true_targets(record) if target < len(masks)]
    smallest = sorted(range(len(masks)), key=norms.__getitem__)
    chosen = sorted(list(dict.fromkeys([*targets, *smallest]))[:IN_A_ROW])
    found = record.metrics.get("defense.held_out_asr")
    rates = found if isinstance(found, list) and len(found) == len(masks) else None
    both = recovered_triggers(masks, patterns)
    heads, columns = [], []
    for index in chosen:
        mark, under = index == suspect, f"L1 {norms[index]:.3g}" + (f"\nASR {rates[index]:.0%}" if rates else "")
        columns.append(
            [Tile(gray(masks[index]), "", mark), Tile(patterns[index], "", mark), Tile(both[index], under, mark)]
        )
        heads.append(shortened(class_label(index, names), _LETTERS) + (" ▲" if index in targets else ""))
    if "trigger" in arrays and drawable(arrays["trigger"]):
        opacity, pattern = matted(arrays["trigger"])
        norm = f"L1 {float(opacity.mean(0).sum()):.3g}"
        columns.append(
            [Tile(gray(opacity.mean(0, keepdims=True))), Tile(gray(pattern)), Tile(arrays["trigger"][0], norm)]
        )
        heads.append("planted")
    rows = [
        TileRow(label, tuple(column[row] for column in columns), () if row else tuple(heads))
        for row, label in enumerate(("mask", "pattern", "mask × pattern"))
    ]
    note = f"{what}; n = {len(masks)} classes"
    note += f", shown: {len(chosen)} with the smallest masks or a true target" if len(chosen) < len(masks) else ""
    note += "; masks: black 0, white 1; " + ("no class is suspect" if suspect is None else "framed: the suspect class")
    note += "; ▲ true target" if targets else ""
    note += "; ASR: of a recovered trigger on the defender’s held-out images" if rates else ""
    return tile_sheet(rows, note)


def _over_lines(label: str) -> str:
    """Return a bracket string over several lines."""
    word, _, settings = label.partition("[")
    return "\n".join([word, *(shortened(each, 24) for each in settings.removesuffix("]").split(",") if each)])
