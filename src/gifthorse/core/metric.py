"""What each metric of a record means; imports no torch."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Metric:
    """A metric's title, unit, range and direction; ``higher_is_better`` is from the user's side named in ``of``."""

    name: str
    title: str
    of: Literal["attack", "defense", "filter", "detector"]
    unit: Literal["fraction", "points", "index", "norm", "class", "flag"]
    range: tuple[float, float]
    higher_is_better: bool | None
    help: str


_INF = float("inf")

_LISTED = (
    Metric("acc", "accuracy", "attack", "fraction", (0, 1), True, "share of clean test images classified correctly"),
    Metric(
        "adversarial_acc",
        "adversarial accuracy",
        "attack",
        "fraction",
        (0, 1),
        True,
        "accuracy on PGD inputs of the adversary that the model was trained against, worst of all steps (AEGIS V-A)",
    ),
    Metric(
        "asr",
        "attack success rate",
        "attack",
        "fraction",
        (0, 1),
        True,
        "share of stamped test images, true class not the target, that get the target (TrojanZoo eq. 3)",
    ),
    Metric(
        "tmc",
        "trojan misclassification confidence",
        "attack",
        "fraction",
        (0, 1),
        True,
        "mean confidence in the target over successful stamped images (TrojanZoo 4.2)",
    ),
    Metric(
        "benign_asr",
        "attack success rate on the benign twin",
        "attack",
        "fraction",
        (0, 1),
        None,
        "the same on the benign twin after the same downstream tuning: what the trigger does without a backdoor",
    ),
    Metric(
        "cad",
        "clean accuracy drop",
        "attack",
        "points",
        (-1, 1),
        False,
        "accuracy of the benign twin minus the trojan's, downstream after the same tuning; for a defense, before minus "
        "after (TrojanZoo 4.2, 4.4)",
    ),
    Metric(
        "ccc",
        "clean classification confidence",
        "attack",
        "fraction",
        (0, 1),
        True,
        "mean confidence in the true class of clean test images (TrojanZoo 4.2)",
    ),
    Metric(
        "valid",
        "the attack took",
        "attack",
        "flag",
        (0, 1),
        True,
        "ASR at or above 0.8 and clean accuracy drop at or below 0.05; no defense gets credit otherwise",
    ),
    Metric(
        "ard",
        "attack rate deduction",
        "defense",
        "points",
        (-1, 1),
        True,
        "ASR before minus after the defense (TrojanZoo 4.4)",
    ),
    Metric(
        "tpr",
        "true positive rate",
        "filter",
        "fraction",
        (0, 1),
        True,
        "share of stamped images flagged at the threshold set on the defender's clean images (TrojanZoo eq. 5)",
    ),
    Metric("fpr", "false positive rate", "filter", "fraction", (0, 1), False, "share of clean test images flagged"),
    Metric("precision", "precision", "filter", "fraction", (0, 1), True, "share of flagged images that are stamped"),
    Metric("recall", "recall", "filter", "fraction", (0, 1), True, "the true positive rate by its other name"),
    Metric("f1", "F1 score", "filter", "fraction", (0, 1), True, "harmonic mean of precision and recall"),
    Metric("accuracy", "filter accuracy", "filter", "fraction", (0, 1), True, "share of correct decisions on pairs"),
    Metric(
        "auroc",
        "area under the ROC curve",
        "filter",
        "fraction",
        (0, 1),
        True,
        "chance that a stamped image scores above a clean one, ties counting half",
    ),
    Metric(
        "index",
        "the method's own index",
        "detector",
        "index",
        (-_INF, _INF),
        None,
        "what the method compares with its threshold: the anomaly index, unless it has an index of its own",
    ),
    Metric(
        "aiv",
        "anomaly index value",
        "detector",
        "index",
        (-_INF, _INF),
        None,
        "largest one-sided deviation from the median in units of 1.4826 MAD (Neural Cleanse IV-C)",
    ),
    Metric(
        "aiv_log",
        "anomaly index on log norms",
        "detector",
        "index",
        (-_INF, _INF),
        None,
        "the same index on the logarithms of the trigger norms",
    ),
    Metric(
        "aiv_ratio",
        "median to smallest norm",
        "detector",
        "index",
        (0, _INF),
        None,
        "median of the trigger norms over the smallest",
    ),
    Metric(
        "aiv_quality",
        "anomaly index of TABOR's trigger quality",
        "detector",
        "index",
        (-_INF, _INF),
        None,
        "the same index on TABOR's own measure of each recovered trigger (TABOR section 5)",
    ),
    Metric(
        "aiv_stimulation",
        "largest stimulation margin",
        "detector",
        "index",
        (-_INF, _INF),
        None,
        "the most that one unit lifts its class above every other (ABS Algorithm 1)",
    ),
    Metric(
        "aiv_sparseness",
        "anomaly index of heat-map sparseness",
        "detector",
        "index",
        (-_INF, _INF),
        None,
        "the same index on NeuronInspect's sparseness alone: the L1 norm of a class's heat maps",
    ),
    Metric(
        "aiv_smoothness",
        "anomaly index of heat-map smoothness",
        "detector",
        "index",
        (-_INF, _INF),
        None,
        "the same index on NeuronInspect's smoothness alone: the L1 norm of the heat maps' Laplacian",
    ),
    Metric(
        "aiv_persistence",
        "anomaly index of heat-map persistence",
        "detector",
        "index",
        (-_INF, _INF),
        None,
        "the same index on NeuronInspect's persistence alone: the pixels that two images' heat maps disagree on",
    ),
    Metric("flagged", "model flagged", "detector", "flag", (0, 1), None, "the method's own index above its threshold"),
    Metric("suspect_class", "suspect class", "detector", "class", (0, _INF), None, "the flagged class, if any"),
    Metric(
        "held_out_asr",
        "ASR of each recovered trigger on held-out images",
        "detector",
        "fraction",
        (0, 1),
        None,
        "per class, on the defender's own clean images of other classes that the search has not seen",
    ),
    Metric("hit", "target ranked first", "detector", "flag", (0, 1), True, "the target alone has the highest score"),
    Metric("scores", "score per class", "detector", "index", (-_INF, _INF), None, "higher is more suspicious"),
    Metric(
        "mln",
        "mask L1 norm",
        "detector",
        "norm",
        (0, _INF),
        None,
        "L1 norm of the mask recovered for the target (TrojanZoo 4.4)",
    ),
    Metric(
        "mjs",
        "mask Jaccard similarity",
        "detector",
        "fraction",
        (0, 1),
        True,
        "Jaccard index of recovered and true mask (TrojanZoo eq. 6), recovered pixels above 0.1",
    ),
    Metric(
        "recovered_asr",
        "ASR of the recovered trigger",
        "detector",
        "fraction",
        (0, 1),
        True,
        "success of the trigger recovered for the target, on test images of other classes",
    ),
)

METRICS: dict[str, Metric] = {metric.name: metric for metric in _LISTED}
