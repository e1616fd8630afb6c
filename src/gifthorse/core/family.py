"""The families of defenses and the other tables of results: what they are called and which metrics they show.

A family of one's own is one line: ``FAMILIES.add(Family("unlearning", ...))``. Imports no torch.
"""

from dataclasses import dataclass

from gifthorse.core.metric import Declarations


@dataclass(frozen=True)
class Table:
    """A table of results; ``columns`` are the names of metrics in order, ``rows`` says what stands in a row.

    Those of them that are ``optional`` have a column only where something has that metric. ``headline`` is the one
    metric that stands for the table where there is room for one; the first column unless given.
    """

    name: str
    title: str
    sentence: str
    columns: tuple[str, ...]
    rows: str = "Defense"
    optional: tuple[str, ...] = ()
    headline: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "headline", self.headline or next(iter(self.columns), ""))


@dataclass(frozen=True)
class Family(Table):
    """A family of defenses; ``judged`` says how to read its table.

    ``baseline`` names the defense that the others are read against: it comes first, and tables say where it is missing.
    """

    judged: str = ""
    baseline: str = ""


ATTACK = Table(
    "attack",
    "Attacks",
    "How well each backdoor was planted.",
    (
        "attack.acc",
        "attack.twin_acc",
        "attack.cad",
        "attack.asr",
        "attack.asr_min",
        "attack.leakage",
        "attack.tmc",
        "attack.ccc",
        "benign.asr",
        "attack.valid",
    ),
    "Attack",
    ("attack.twin_acc", "attack.asr_min", "attack.leakage"),
    headline="attack.asr",
)
DOWNSTREAM = Table(
    "downstream",
    "Downstream tuning",
    "A downstream user puts a new head on the delivered network and tunes it: does the backdoor survive? ASR before is "
    "that of the network as delivered; the benign twin was tuned alike.",
    (
        "downstream.acc",
        "downstream.cad",
        "attack.asr",
        "downstream.asr",
        "downstream.tmc",
        "downstream.benign_asr",
        "seconds.downstream",
    ),
    "Head",
    headline="downstream.asr",
)
STAMP = Table(
    "stamp",
    "Triggers varied at test time",
    "The trigger is shown otherwise than it was planted: does the backdoor still react? ASR before is that of the "
    "trigger as planted. Where whole images are transformed, clean ones are too: their accuracy and the share of them "
    "that gets the target stand beside it.",
    (
        "attack.asr",
        "stamp.asr",
        "stamp.tmc",
        "stamp.benign_asr",
        "stamp.requery_asr",
        "stamp.acc",
        "stamp.unstamped_asr",
    ),
    "Stamp",
    ("stamp.requery_asr", "stamp.acc", "stamp.unstamped_asr"),
    headline="stamp.asr",
)
_REPAIRED = ("defense.acc", "defense.cad", "defense.asr", "defense.ard")
FAMILIES = Declarations(
    Family(
        "reformation",
        "Input reformation",
        "Changes every input before the model sees it, so that a trigger no longer works.",
        (*_REPAIRED, "seconds.defense_per_input"),
        headline="defense.asr",
        judged="It should bring ASR down and leave accuracy alone.",
    ),
    Family(
        "filtering",
        "Input filtering",
        "Flags suspicious inputs while the model is in use.",
        (
            "defense.tpr",
            "defense.fpr",
            "defense.auroc",
            "defense.f1",
            "defense.passed_acc",
            "defense.passed_asr",
            "defense.requery_asr",
            "defense.acc",
            "defense.asr",
            "seconds.defense_per_input",
        ),
        optional=("defense.passed_acc", "defense.passed_asr", "defense.requery_asr", "defense.acc", "defense.asr"),
        headline="defense.auroc",
        judged="TPR is the share of stamped images flagged, FPR that of clean ones; AUROC compares the scores whatever "
        "the threshold: 1 separates perfectly, 0.5 is guessing.",
    ),
    Family(
        "sanitization",
        "Model sanitization",
        "Repairs the model, so that it forgets the backdoor.",
        (*_REPAIRED, "seconds.defense"),
        headline="defense.asr",
        judged="It is judged as reformation is, and read against plain fine-tuning.",
        baseline="finetuning",
    ),
    Family(
        "training_set_filtering",
        "Training set filtering",
        "Removes suspicious images from the training set as delivered, and trains anew on the rest.",
        (
            "defense.tpr",
            "defense.precision",
            "defense.fpr",
            "defense.removed",
            "defense.auroc",
            "defense.acc",
            "defense.cad",
            "defense.asr",
            "seconds.defense",
        ),
        headline="defense.asr",
        judged="TPR (recall) is the share of poisoned images that it removed, precision that of poisoned among the "
        "removed, FPR that of clean images lost; accuracy and ASR are those of the model trained on the rest.",
    ),
    Family(
        "combination",
        "Combined defenses",
        "Several defenses as one: their results stand in the table of the family that their answer belongs to.",
        (),
        judged="It is judged as any defense that answers alike.",
    ),
    Family(
        "inspection",
        "Model inspection",
        "Examines the model and says whether it has a backdoor, and for which class.",
        (
            "defense.index",
            "defense.aiv_log",
            "defense.aiv_ratio",
            "defense.flagged",
            "defense.suspect_class",
            "defense.hit",
            "defense.mln",
            "defense.mjs",
            "defense.recovered_asr",
            "seconds.defense",
        ),
        headline="defense.index",
        judged="It looks for a class that is abnormally easy to trigger. The anomaly index says how far it stands out; "
        "above the threshold (2 in the literature) the model is flagged. A method with an index of its own goes by "
        "that (ABS: how often its best trigger works on images held out, flagged from 80 %; MESA: how often a class's "
        "triggers do, flagged above half; MNTD: the mean score of its meta-classifiers, for the model as a whole). On "
        "the benign model, none, a flag is a false alarm.",
    ),
)
