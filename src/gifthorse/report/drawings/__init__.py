"""The figures that a store gives, a file each. Needs matplotlib; imports no torch.

A kind is one line of :data:`KINDS` and a function that finds its drawings. No evidence is read, and nothing drawn,
before a drawing is asked for, but for the titles of what analyses left.
"""

from collections.abc import Iterable
from dataclasses import replace

from gifthorse.report.drawings.analyses import analyses
from gifthorse.report.drawings.cells import classes, scores
from gifthorse.report.drawings.curves import populations, rocs
from gifthorse.report.drawings.erasing import RATES, differences, samples, trade_offs
from gifthorse.report.drawings.leverages import all_leverages
from gifthorse.report.drawings.material import Drawing, Kind
from gifthorse.report.drawings.material import Material as Material
from gifthorse.report.drawings.matrices import matrices
from gifthorse.report.drawings.pictures import recovered, stamped, triggers
from gifthorse.report.drawings.robust import clusters, translated
from gifthorse.report.drawings.robustness import robustness
from gifthorse.report.drawings.sweeps import sweeps

KINDS = {
    "sweep": Kind(
        "ASR and accuracy, or what a defense makes of them, along a field that takes several values",
        "records that differ in one number of their data set, model, recipe, attack, defense, head or stamp",
        sweeps,
    ),
    "leverage": Kind(
        "the clean accuracy that success costs every attack, with the area under it",
        "records of an attack that differ in the poison rate",
        all_leverages,
    ),
    "matrix": Kind("every attack × every defense, a heat map for each metric", "records with a defense", matrices),
    "robustness": Kind(
        "what a defense makes of every attack by trigger and architecture, a map for each",
        "records of a defense that differ in two fields of the attack, or in one and in the model",
        robustness,
    ),
    "tradeoff": Kind(
        "accuracy against ASR over learning rates, with a logistic fit, a figure for each attack",
        f"records of a defense at {RATES} or more learning rates",
        trade_offs,
    ),
    "differences": Kind(
        "how far the trigger moves activations after every defense, a box plot for each attack",
        "records of an attack and of a defense that hands back a model",
        differences,
    ),
    "roc": Kind(
        "ROC curves of defenses that score images, a figure for each attack",
        "records of an attack and of a defense that scores images",
        rocs,
    ),
    "populations": Kind(
        "ROC curves of defenses that inspect models, a figure for each attack",
        "populations, which 'gifthorse population' makes",
        populations,
    ),
    "scores": Kind(
        "histograms of the scores of clean and stamped images, with the threshold",
        "records of a defense that scores images",
        scores,
    ),
    "classes": Kind(
        "what a detector compares, a bar for each class", "records of a defense that inspects models", classes
    ),
    "clusters": Kind(
        "the clusters of features that a detector counts, a map for each class",
        "records of a defense that clusters features",
        clusters,
    ),
    "translated": Kind("images translated to every class", "records of a defense that translates images", translated),
    "triggers": Kind("the triggers of all attacks, alone and on an image", "records of an attack", triggers),
    "stamped": Kind("clean and stamped images with true → predicted class", "records with pictures", stamped),
    "samples": Kind("the samples that a defense generated", "records of a data-free defense", samples),
    "recovered": Kind(
        "recovered masks, patterns and both together, beside those that were planted",
        "records of a defense that recovers triggers",
        recovered,
    ),
    "analyses": Kind(
        "what analyses saw inside of models: pictures, and a chart for each title",
        "records of 'gifthorse analyze'",
        analyses,
    ),
}
"""The kinds of figures, by name."""


def drawings(material: Material, kinds: Iterable[str]) -> list[Drawing]:
    """Return the drawings of some kinds, each with a name that no other has."""
    found: dict[str, Drawing] = {}
    for kind in kinds:
        for drawing in KINDS[kind].find(material):
            name, count = drawing.name, 1
            while name in found:
                count += 1
                name = f"{drawing.name}-{count}"
            found[name] = replace(drawing, name=name)
    return list(found.values())
