"""What each number of a record means, declared once; lists, tables, reports and the command line derive from it.

A metric of one's own is one line: ``METRICS.add(Metric("defense.purity", ...))``. Imports no torch.
"""

from dataclasses import dataclass
from typing import Protocol, TypeVar


class _Named(Protocol):
    @property
    def name(self) -> str: ...


D = TypeVar("D", bound=_Named)


class Declarations(dict[str, D]):
    """What is declared, by name and in order."""

    def __init__(self, *listed: D):
        super().__init__()
        for each in listed:
            self.add(each)

    def add(self, declared: D) -> None:
        """Declare one more; ``ValueError`` where its name already means something else."""
        if self.setdefault(declared.name, declared) != declared:
            raise ValueError(f"'{declared.name}' is declared already, and otherwise")


@dataclass(frozen=True)
class Unit:
    """The range of a number, and how it is printed: ``scale`` times, with ``decimals`` (about three digits if none)."""

    name: str
    low: float
    high: float
    symbol: str = ""
    scale: float = 1
    decimals: int | None = None

    def text(self, value: float) -> str:
        """Return a number as tables print it, without its symbol.

        >>> PERCENT.text(0.9876), POINTS.text(-0.0001), POINTS.text(-0.02), FLAG.text(1)
        ('98.8', '0.0', '−2.0', 'yes')
        """
        if self == FLAG:
            return "yes" if value else "no"
        scaled = value * self.scale
        decimals = max(0, 3 - len(str(int(scaled)))) if self.decimals is None else self.decimals
        text = f"{scaled:.{decimals}f}"
        return text.removeprefix("-") if float(text) == 0 else text.replace("-", "−")


_INF = float("inf")
PERCENT = Unit("fraction", 0, 1, "%", 100, 1)
FRACTION = Unit("fraction", 0, 1, decimals=3)
POINTS = Unit("points", -1, 1, "points", 100, 1)
FLAG = Unit("flag", 0, 1)
COUNT = Unit("images", 0, _INF, decimals=0)
COEFFICIENT = Unit("coefficient", -1, 1, decimals=3)
NATS = Unit("nats", 0, _INF, "nats", decimals=2)
CLASS = Unit("class", 0, _INF, decimals=0)
INDEX = Unit("index", -_INF, _INF, decimals=2)
RATIO = Unit("ratio", 0, _INF, decimals=2)
NORM = Unit("norm", 0, _INF, decimals=2)
SECONDS = Unit("seconds", 0, _INF, "s")
MILLISECONDS = Unit("seconds", 0, _INF, "ms", 1000)
UNDECLARED = Unit("undeclared", -_INF, _INF, decimals=2)


@dataclass(frozen=True)
class Metric:
    """A number, or a list of numbers, of a record; ``name`` is its scope and its own name: ``attack.asr``.

    Where several models are measured alike, the ``title`` begins with the model: benign model, twin, trojan.

    ``higher_is_better`` is from the side of the ``subject``, which is what the number judges. ``short`` heads its
    column in tables. ``formula`` is the definition with its source: f is the model, f₀ its benign twin, x a clean test
    image of class y, x′ the same image stamped, t the target of x′. A name that ends in ``*`` stands for all names with
    that beginning.
    """

    name: str
    title: str
    subject: str
    unit: Unit
    higher_is_better: bool | None
    help: str
    formula: str = ""
    short: str = ""

    @property
    def scope(self) -> str:
        """Return what was measured: ``benign``, ``attack``, ``defense``, ``analysis``, …, or ``seconds``."""
        return self.name.partition(".")[0]

    @property
    def heading(self) -> str:
        """Return what heads the metric's column."""
        return self.short or self.title

    @property
    def better(self) -> str:
        """Return ``higher``, ``lower``, or nothing where neither is better or the answer is yes or no."""
        if self.higher_is_better is None or self.unit == FLAG:
            return ""
        return "higher" if self.higher_is_better else "lower"

    @property
    def meaning(self) -> str:
        """Return what the metric is, with its definition."""
        return f"{self.help} ({self.formula})" if self.formula else self.help


class Metrics(Declarations[Metric]):
    """The declared metrics."""

    def find(self, name: str) -> Metric:
        """Return the metric of that name, a stand-in with the unit ``UNDECLARED`` where it is not declared."""
        families = (each for each in self.values() if each.name[-1] == "*" and name.startswith(each.name[:-1]))
        return self.get(name) or next(families, Metric(name, name, "", UNDECLARED, None, ""))

    def called(self, word: str) -> list[Metric]:
        """Return the metrics that a word may mean: a name, a name without its scope, or what heads a column.

        >>> [each.name for each in METRICS.called("asr")]
        ['benign.asr', 'attack.asr', 'defense.asr', 'downstream.asr', 'stamp.asr']
        >>> [each.name for each in METRICS.called("AUROC")], [each.name for each in METRICS.called("attack.asr")]
        (['defense.auroc'], ['attack.asr'])
        """
        if word in self:
            return [self[word]]
        return [
            each
            for each in self.values()
            if word == each.name.partition(".")[2] or word.lower() == each.short.lower() != ""
        ]


_HEAT = "mean distance by pixel of the Grad-CAM maps, from 0 to 1, of an image and of the same one stamped, for the"
_HEAT_SOURCE = "TrojanZoo 6.4"
_STAMPED = "stamped test images of another class than their target"

# A table to be read down; the formatter would give every word a line.
# fmt: off
METRICS = Metrics(
    Metric("benign.acc", "benign model: accuracy", "benign model", PERCENT, True,
           "share of clean test images that the benign model classifies correctly", "#{f(x) = y} / #x"),
    Metric("benign.adversarial_acc", "benign model: adversarial accuracy", "benign model", PERCENT, True,
           "accuracy of the benign model on PGD inputs of the adversary of its training, worst of all steps",
           "AEGIS V-A"),
    Metric("benign.chance", "test set: accuracy of a constant answer", "benign model", PERCENT, None,
           "accuracy of always naming the most frequent class of the test set"),
    Metric("benign.asr", "twin: attack success rate", "attack", PERCENT, None,
           "share of the same images that the benign twin gives the target: what the trigger does without a backdoor",
           "#{f₀(x′) = t, y ≠ t} / #{y ≠ t}", "Benign ASR"),

    Metric("attack.acc", "trojan: accuracy", "attack", PERCENT, True,
           "share of clean test images that the delivered model classifies correctly", "#{f(x) = y} / #x", "Accuracy"),
    Metric("attack.adversarial_acc", "trojan: adversarial accuracy", "attack", PERCENT, True,
           "accuracy on PGD inputs of the adversary that the model was trained against, worst of all steps",
           "AEGIS V-A"),
    Metric("attack.asr", "trojan: attack success rate", "attack", PERCENT, True,
           f"share of {_STAMPED} that get the target", "#{f(x′) = t, y ≠ t} / #{y ≠ t}, TrojanZoo eq. 3", "ASR"),
    Metric("attack.targets", "targets", "attack", CLASS, None, "the classes that stamped images should get"),
    Metric("attack.asr_by_target", "trojan: attack success rate by target", "attack", PERCENT, True,
           "the same over the images of each target alone, in the order of attack.targets"),
    Metric("attack.asr_min", "trojan: lowest attack success rate of a target", "attack", PERCENT, True,
           "the smallest attack success rate by target: what the weakest of several backdoors does",
           short="Lowest ASR"),
    Metric("attack.leakage", "trojan: leakage to other source classes", "attack", PERCENT, False,
           "share of stamped test images whose class is no source of the attack that get the target all the same",
           short="Leakage"),
    Metric("attack.tmc", "trojan: misclassification confidence", "attack", PERCENT, True,
           "mean confidence in the target over successful stamped images", "TrojanZoo 4.2", "TMC"),
    Metric("attack.asr_restricted", "trojan: attack success rate on images that it gets right", "attack", PERCENT, True,
           f"the attack success rate over those {_STAMPED} that the model classifies correctly without the trigger",
           "#{f(x′) = t, f(x) = y ≠ t} / #{f(x) = y ≠ t}, DHBE 5.1.4"),
    Metric("attack.asr_all", "trojan: attack success rate on all images", "attack", PERCENT, True,
           "share of all stamped test images that get the target, those of the target class among them: about a tenth "
           "of ten classes for free", "#{f(x′) = t} / #x, AEGIS V-A"),
    Metric("attack.latent_difference", "trojan: difference of inner activations", "attack", NORM, None,
           "mean L2 distance of the penultimate layer between an image and the same one stamped", "DHBE 5.3"),
    Metric("attack.logit_difference", "trojan: difference of output activations", "attack", NORM, None,
           "mean L2 distance of the logits between an image and the same one stamped", "DHBE 5.3"),
    Metric("attack.heat_difference_target", "trojan: distance of attribution maps, target", "attack", PERCENT, None,
           f"{_HEAT} target, on the trojaned model", _HEAT_SOURCE),
    Metric("attack.heat_difference_label", "trojan: distance of attribution maps, own class", "attack", PERCENT, None,
           f"{_HEAT} image's own class, on the trojaned model", _HEAT_SOURCE),
    Metric("benign.heat_difference_target", "twin: distance of attribution maps, target", "attack", PERCENT, None,
           f"{_HEAT} target, on the benign twin", _HEAT_SOURCE),
    Metric("benign.heat_difference_label", "twin: distance of attribution maps, own class", "attack", PERCENT, None,
           f"{_HEAT} image's own class, on the benign twin", _HEAT_SOURCE),
    Metric("attack.twin_acc", "twin: accuracy", "benign twin", PERCENT, True,
           "share of clean test images that the trojan's benign twin classifies correctly: trained as long, on clean "
           "images alone", "#{f₀(x) = y} / #x", "Twin accuracy"),
    Metric("attack.cad", "twin to trojan: clean accuracy drop", "attack", POINTS, False,
           "accuracy of the benign twin minus that of the trojaned model", "acc(f₀) − acc(f), TrojanZoo 4.2", "CAD"),
    Metric("attack.ccc", "trojan: clean classification confidence", "attack", PERCENT, True,
           "mean confidence in the true class of clean test images", "TrojanZoo 4.2", "CCC"),
    Metric("attack.valid", "the attack took", "attack", FLAG, True,
           "ASR at least 0.8 and 0.5 above the benign twin's, clean accuracy drop at most 0.05, leakage at most 0.2, "
           "and the twin better than a constant answer by over 0.05 of what that leaves to be gained; else no defense "
           "gets credit",
           short="Took"),

    Metric("defense.acc", "accuracy after the defense", "defense", PERCENT, True,
           "share of clean test images classified correctly after the defense", "#{f(x) = y} / #x", "Accuracy"),
    Metric("defense.asr", "attack success rate after the defense", "defense", PERCENT, False,
           f"share of {_STAMPED} that get it in spite of the defense", "TrojanZoo eq. 3", "ASR"),
    Metric("defense.asr_restricted", "attack success rate after the defense on images it gets right", "defense",
           PERCENT, False,
           f"the attack success rate over those {_STAMPED} that are classified correctly without the trigger",
           "#{f(x′) = t, f(x) = y ≠ t} / #{f(x) = y ≠ t}, DHBE 5.1.4", "ASR, right"),
    Metric("defense.asr_all", "attack success rate after the defense on all images", "defense", PERCENT, False,
           "share of all stamped test images that get the target in spite of the defense, those of the target class "
           "among them", "#{f(x′) = t} / #x, AEGIS V-A"),
    Metric("defense.latent_difference", "difference of inner activations after the defense", "defense", NORM, False,
           "mean L2 distance of the penultimate layer between an image and the same one stamped", "DHBE 5.3",
           "Inner difference"),
    Metric("defense.logit_difference", "difference of output activations after the defense", "defense", NORM, False,
           "mean L2 distance of the logits between an image and the same one stamped", "DHBE 5.3",
           "Output difference"),
    Metric("defense.unstamped_asr", "clean images that get the target after the defense", "defense", PERCENT, None,
           "share of clean test images of other classes that get the target after the defense: what a defense that "
           "changes images does by itself", "#{f(x) = t, y ≠ t} / #{y ≠ t}"),
    Metric("defense.tmc", "trojan misclassification confidence after the defense", "defense", PERCENT, False,
           "mean confidence in the target over stamped images that succeed after the defense", "TrojanZoo 4.4", "TMC"),
    Metric("defense.cad", "clean accuracy drop by the defense", "defense", POINTS, False,
           "accuracy before minus after the defense", "TrojanZoo 4.4", "CAD"),
    Metric("defense.ccc", "clean classification confidence after the defense", "defense", PERCENT, True,
           "mean confidence in the true class of clean test images after the defense", "TrojanZoo 4.4", "CCC"),
    Metric("defense.ard", "attack rate deduction", "defense", POINTS, True,
           "ASR before minus after the defense", "TrojanZoo 4.4", "ARD"),

    Metric("defense.agreement", "agreement with the delivered model", "defense", PERCENT, None,
           "share of the defender's own clean images that delivered and defended model give one class: what the "
           "defender can see of the cost", short="Agreement"),
    Metric("defense.agreement_on_samples", "agreement with the delivered model on generated samples", "defense",
           PERCENT, None, "the same on samples that the defense generated", short="Agreement, samples"),
    Metric("defense.found_asr_before", "found triggers: ASR on the delivered model", "defense", PERCENT, None,
           "share of the defender's clean images of other classes that a trigger which the defense found sends to its "
           "class"),
    Metric("defense.found_asr_after", "found triggers: ASR after the defense", "defense", PERCENT, False,
           "the same after the defense: what the defender can see of the gain", short="Found ASR"),

    Metric("defense.tpr", "true positive rate", "filter", PERCENT, True,
           "share of stamped samples flagged: test images of other classes than the target, by a threshold set on "
           "clean ones, or training images",
           "TP / (TP + FN), TrojanZoo eq. 5", "TPR"),
    Metric("defense.fpr", "false positive rate", "filter", PERCENT, False,
           "share of clean samples flagged, those of the target class among them", "FP / (FP + TN)", "FPR"),
    Metric("defense.precision", "precision", "filter", PERCENT, True,
           "share of flagged samples that are stamped", "TP / (TP + FP)", "Precision"),
    Metric("defense.recall", "recall", "filter", PERCENT, True,
           "the true positive rate by its other name", short="Recall"),
    Metric("defense.f1", "F1 score", "filter", FRACTION, True,
           "harmonic mean of precision and recall", "2 TP / (2 TP + FP + FN)", "F1"),
    Metric("defense.accuracy", "filter accuracy", "filter", PERCENT, True,
           "share decided correctly of up to 500 clean test images and up to 500 stamped ones",
           "(TP + TN) / all, TrojanZoo Table 23"),
    Metric("defense.auroc", "area under the ROC curve", "filter", FRACTION, True,
           "chance that a stamped sample scores above a clean one, ties counting half", short="AUROC"),
    Metric("defense.passed_acc", "accuracy behind the filter", "filter", PERCENT, True,
           "share of clean test images that pass the filter and are then classified correctly", short="Passed, right"),
    Metric("defense.passed_asr", "attack success rate behind the filter", "filter", PERCENT, False,
           "share of stamped test images of other classes than their target that pass the filter and then get it",
           short="Passed, ASR"),
    Metric("defense.requery_asr", "attack success rate behind the filter, trying again", "filter", PERCENT, False,
           "share of the same stamped images that pass the filter and then get their target within all tries of an "
           "attacker who tries again with a fresh trigger", "Dynamic Backdoors 4.6",
           "Tried again, ASR"),
    Metric("defense.requery_asr_by_tries", "attack success rate behind the filter by tries", "filter", PERCENT, False,
           "the same within one try, two, and so on"),
    Metric("defense.clean_images", "clean images of the defender", "defense", COUNT, None,
           "how many clean images the defender was given", short="Clean images"),
    Metric("defense.removed", "share removed", "filter", PERCENT, None,
           "share of the training set that was removed before training anew", short="Removed"),

    Metric("defense.index", "the method's own index", "detector", INDEX, None,
           "what the method compares with its threshold: the anomaly index, unless it has an index of its own",
           short="Index"),
    Metric("defense.aiv", "anomaly index value", "detector", INDEX, None,
           "largest one-sided deviation from the median in units of 1.4826 MAD", "Neural Cleanse IV-C"),
    Metric("defense.aiv_target", "anomaly index of the target", "detector", INDEX, None,
           "the anomaly index of the true target (mean over several): what TrojanZoo compares with the largest of a "
           "benign model; a defender cannot know it", "TrojanZoo 5.3.3"),
    Metric("defense.aiv_log", "anomaly index on log norms", "detector", INDEX, None,
           "the same index on the logarithms of the trigger norms", short="Log index"),
    Metric("defense.aiv_ratio", "median to smallest norm", "detector", RATIO, None,
           "median of the trigger norms over the smallest", short="Ratio"),
    Metric("defense.aiv_quality", "anomaly index of TABOR's trigger quality", "detector", INDEX, None,
           "the same index on TABOR's own measure of each recovered trigger", "TABOR section 5"),
    Metric("defense.aiv_stimulation", "largest stimulation margin", "detector", INDEX, None,
           "the most that one unit lifts its class above every other", "ABS Algorithm 1"),
    Metric("defense.aiv_sparseness", "anomaly index of heat-map sparseness", "detector", INDEX, None,
           "the same index on NeuronInspect's sparseness alone: the L1 norm of a class's heat maps"),
    Metric("defense.aiv_smoothness", "anomaly index of heat-map smoothness", "detector", INDEX, None,
           "the same index on NeuronInspect's smoothness alone: the L1 norm of the heat maps' Laplacian"),
    Metric("defense.aiv_persistence", "anomaly index of heat-map persistence", "detector", INDEX, None,
           "the same index on NeuronInspect's persistence alone: the pixels that two images' heat maps disagree on"),
    Metric("defense.aiv_placed", "success of the best placed trigger", "detector", INDEX, None,
           "the most held-out images that one of MESA's triggers, at its best place, sends to its class, as a share"),
    Metric("defense.aiv_*", "further index", "detector", INDEX, None,
           "a model-level index of the method, which names it; higher is more suspicious"),
    Metric("defense.aiv_separation", "largest separation of translated images", "detector", INDEX, None,
           "distance, 0 to 2, between the mean directions of features of images translated to a class and of its own, "
           "in the class where it is largest; our own read-out", short="Separation"),
    Metric("defense.flagged", "model flagged", "detector", FLAG, None,
           "the method's own index above its threshold", short="Flagged"),
    Metric("defense.missed", "backdoor missed", "detector", FLAG, False,
           "the model has a backdoor and was not flagged; its mean over runs is the failure rate", "AEGIS Table X",
           "Missed"),
    Metric("defense.class_detected", "target among the flagged classes", "detector", FLAG, True,
           "the target, or one of several, is among the classes above the threshold", "AEGIS Table VI",
           "Class detected"),
    Metric("defense.false_positive_classes", "share of other classes flagged", "detector", PERCENT, False,
           "share of the classes that are no target which are above the threshold: of all classes, where the model is "
           "benign", "AEGIS Tables VI and X", "False classes"),
    Metric("defense.clusters", "clusters per class", "detector", COUNT, None,
           "clusters of features of the defender's images of a class and of images translated to it; 0 where too few "
           "images reached the class", "AEGIS IV"),
    Metric("defense.separations", "separation per class", "detector", INDEX, None,
           "distance, 0 to 2, between the mean directions of features of translated images and of real ones; ours"),
    Metric("defense.reached", "translated images that reach their class", "detector", PERCENT, None,
           "per class, the share of translated images that the model gives the class", "AEGIS IV, step 1"),
    Metric("defense.stability", "stability over repeats", "detector", PERCENT, True,
           "share of repeated runs on the same model that flag it, or do not, as most of them do", "AEGIS Table X",
           "Stability"),
    Metric("defense.trigger_norms", "mean norm of reversed triggers", "detector", NORM, None,
           "per class, the mean norm of what brings images to the class", "AEGIS Figure 18"),
    Metric("defense.meta_flagged", "meta-classifiers that flag the model", "detector", PERCENT, None,
           "share of MNTD's meta-classifiers whose score of the model is above their own threshold: its detection "
           "accuracy, if the model has a backdoor", "Dynamic Backdoors 4.6", "Meta flags"),
    Metric("defense.meta_spread", "spread over meta-classifiers", "detector", INDEX, None,
           "standard deviation of the meta-classifiers' scores of the model", "Dynamic Backdoors 4.6"),
    Metric("defense.meta_threshold", "threshold of the mean score", "detector", INDEX, None,
           "what MNTD compares its index with, which is the mean score of the meta-classifiers"),
    Metric("defense.meta_auroc", "meta-classifiers: AUROC on shadow models", "detector", FRACTION, True,
           "chance that a trojaned validation model scores above a benign one; these models chose the epoch", "MNTD"),
    Metric("defense.shadow_acc", "benign shadow models: accuracy", "detector", PERCENT, True,
           "mean accuracy of the defender's benign shadow models on its own images that none was trained on"),
    Metric("defense.shadow_acc_trojaned", "trojaned shadow models: accuracy", "detector", PERCENT, True,
           "the same of those that the defender trained with a backdoor; a difference is a cue that targets lack"),
    Metric("defense.shadow_asr", "trojaned shadow models: attack success rate", "detector", PERCENT, True,
           "mean share of the same images, of other classes, that their triggers send to their targets"),
    Metric("defense.suspect_class", "suspect class", "detector", CLASS, None,
           "the flagged class, if any", short="Suspect"),
    Metric("defense.held_out_asr", "ASR of each recovered trigger on held-out images", "detector", PERCENT, None,
           "per class, on the defender's own clean images of other classes that the search has not seen"),
    Metric("defense.hit", "target ranked first", "detector", FLAG, True,
           "the target alone has the highest score", short="Hit"),
    Metric("defense.scores", "score per class", "detector", INDEX, None, "higher is more suspicious"),
    Metric("defense.mln", "mask L1 norm", "detector", NORM, None,
           "L1 norm of the mask recovered for the target", "TrojanZoo 4.4", "MLN"),
    Metric("defense.mjs", "mask Jaccard similarity", "detector", FRACTION, True,
           "Jaccard index of recovered and true mask, recovered pixels above 0.1 (our choice)", "TrojanZoo eq. 6",
           "MJS"),
    Metric("defense.mjs_top", "mask Jaccard similarity by TrojanZoo's pixels", "detector", FRACTION, True,
           "the same of the recovered mask's top pixels: for a trigger of n, those above the n-th largest value; "
           "(n − 1) / n is the most", "TrojanZoo eq. 6, code", "MJS, top"),
    Metric("defense.recovered_asr", "ASR of the recovered trigger", "detector", PERCENT, True,
           "success of the trigger recovered for the target, on test images of other classes", short="Trigger ASR"),

    Metric("downstream.acc", "tuned trojan: accuracy", "attack", PERCENT, True,
           "share of the downstream user's test images classified correctly", "#{f(x) = y} / #x", "Accuracy"),
    Metric("downstream.cad", "tuned twin to tuned trojan: clean accuracy drop", "attack", POINTS, False,
           "accuracy of the benign twin minus that of the trojaned model, both tuned alike", "acc(f₀) − acc(f)", "CAD"),
    Metric("downstream.asr", "tuned trojan: attack success rate", "attack", PERCENT, True,
           f"share of the downstream user's {_STAMPED} that get it", "TrojanZoo eq. 3", "ASR"),
    Metric("downstream.tmc", "tuned trojan: misclassification confidence", "attack", PERCENT, True,
           "mean confidence in the target over stamped images that succeed after the tuning", "TrojanZoo 4.2", "TMC"),
    Metric("downstream.benign_asr", "tuned twin: attack success rate", "attack", PERCENT, None,
           "the same on the benign twin after the same tuning: what the trigger does without a backdoor",
           short="Benign ASR"),

    Metric("stamp.asr", "trojan, trigger varied: attack success rate", "attack", PERCENT, True,
           f"share of {_STAMPED} that get it where the trigger is shown otherwise than it was planted: where whole "
           "images are transformed, the robustness of the attack to that transformation",
           "TrojanZoo eq. 3; R(T) of Li et al. 2020, Definition 4", "ASR"),
    Metric("stamp.tmc", "trojan, trigger varied: misclassification confidence", "attack", PERCENT, True,
           "mean confidence in the target over images with the varied trigger that succeed", "TrojanZoo 4.2", "TMC"),
    Metric("stamp.benign_asr", "twin, trigger varied: attack success rate", "attack", PERCENT, None,
           "the same on the benign twin: what the varied trigger does without a backdoor", short="Benign ASR"),
    Metric("stamp.requery_asr", "trojan, tried again: attack success rate", "attack", PERCENT, True,
           f"share of {_STAMPED} that get it within all tries of an attacker who tries again with a fresh trigger",
           "Dynamic Backdoors 4.6", "ASR, tried again"),
    Metric("stamp.requery_asr_by_tries", "trojan, tried again: attack success rate by tries", "attack", PERCENT, True,
           "the same within one try, two, and so on"),
    Metric("stamp.acc", "trojan, images transformed: accuracy", "attack", PERCENT, True,
           "share of clean test images that are classified correctly once they are transformed as stamped ones are",
           short="Accuracy"),
    Metric("stamp.unstamped_asr", "trojan, images transformed: clean images that get the target", "attack", PERCENT,
           None, "share of clean test images of other classes that get the target once they are transformed: what the "
           "transformation does without a trigger", short="ASR unstamped"),

    Metric("analysis.nsr", "model: neuron separation", "model", FRACTION, None,
           "one minus the Jaccard index of the penultimate units that are most active on clean images and on the same "
           "ones stamped", "1 − |Nₜ ∩ N_c| / |Nₜ ∪ N_c|, TrojanZoo eq. 4; k: active_share of the analysis", "NSR"),
    Metric("analysis.nsr_twin", "twin: neuron separation", "model", FRACTION, None,
           "the same on the benign twin: what the trigger does to a model that does not know it", short="Twin NSR"),
    Metric("analysis.nsr_by_image", "model: neuron separation of each image", "model", FRACTION, None,
           "mean over images of one minus the Jaccard index of the units most active for the image and for the same "
           "one stamped", "TrojanZoo eq. 4, image by image", "NSR by image"),
    Metric("analysis.nsr_by_image_twin", "twin: neuron separation of each image", "model", FRACTION, None,
           "the same on the benign twin", short="Twin NSR by image"),
    Metric("analysis.shared_units", "model: units for clean and stamped images", "model", COUNT, None,
           "units often among the most active ones for clean images and for stamped ones", short="Shared"),
    Metric("analysis.shared_units_twin", "twin: units for clean and stamped images", "model", COUNT, None,
           "the same on the benign twin", short="Twin shared"),
    Metric("analysis.trigger_units", "model: units for the trigger alone", "model", COUNT, None,
           "units often among the most active ones for stamped images and seldom for clean ones", short="Trigger's"),
    Metric("analysis.trigger_units_twin", "twin: units for the trigger alone", "model", COUNT, None,
           "the same on the benign twin", short="Twin trigger's"),
    Metric("analysis.cka_clean_stamped", "model: similarity of clean and stamped images", "model", FRACTION, None,
           "linear CKA of the penultimate features of clean images and of the same ones stamped: 1 means alike up to a "
           "rotation", "‖YᵀX‖² / (‖XᵀX‖ ‖YᵀY‖), Kornblith et al. 2019", "CKA"),
    Metric("analysis.cka_clean_stamped_twin", "twin: similarity of clean and stamped images", "model", FRACTION, None,
           "the same on the benign twin", short="Twin CKA"),
    Metric("analysis.cka_twin", "model and twin: similarity on clean images", "model", FRACTION, None,
           "linear CKA of the penultimate features of the model and of its twin on clean images",
           short="CKA to twin"),
    Metric("analysis.cka_twin_stamped", "model and twin: similarity on stamped images", "model", FRACTION, None,
           "the same on stamped images", short="CKA to twin, stamped"),
    Metric("analysis.cka_clean_stamped_by_stage", "model: similarity of clean and stamped images by stage", "model",
           FRACTION, None, "the same at every stage, first to last, of means over places"),
    Metric("analysis.cka_clean_stamped_twin_by_stage", "twin: similarity of clean and stamped images by stage", "model",
           FRACTION, None, "the same on the benign twin, at every stage"),
    Metric("analysis.cka_twin_by_stage", "model and twin: similarity on clean images by stage", "model", FRACTION, None,
           "linear CKA of model and twin on clean images, at every stage"),
    Metric("analysis.cka_twin_stamped_by_stage", "model and twin: similarity on stamped images by stage", "model",
           FRACTION, None, "linear CKA of model and twin on stamped images, at every stage"),
    Metric("analysis.stamped_silhouette", "model: how far stamped images stand from the target's", "model", COEFFICIENT,
           None, "mean silhouette, in penultimate features, of stamped images and of clean ones of their target as two "
           "groups: 1 far apart, 0 mixed", short="Silhouette"),
    Metric("analysis.stamped_silhouette_twin", "twin: how far stamped images stand from the target's", "model",
           COEFFICIENT, None, "the same on the benign twin", short="Twin silhouette"),
    Metric("analysis.entropy_clean", "model: entropy of clean blends", "model", NATS, None,
           "mean entropy of the answers to clean images blended with other clean ones", short="Entropy, clean"),
    Metric("analysis.entropy_stamped", "model: entropy of stamped blends", "model", NATS, None,
           "the same of stamped images: low where the trigger survives blending", "Dynamic Backdoors 4.6",
           "Entropy, stamped"),
    Metric("analysis.entropy_overlap", "model: overlap of the entropies", "model", FRACTION, None,
           "1 where the entropies of clean and of stamped images cannot be told apart, 0 where a threshold separates "
           "them", "1 − |2 AUROC − 1|", "Overlap"),
    Metric("analysis.entropy_clean_twin", "twin: entropy of clean blends", "model", NATS, None,
           "the mean entropy of clean images on the benign twin", short="Twin entropy, clean"),
    Metric("analysis.entropy_stamped_twin", "twin: entropy of stamped blends", "model", NATS, None,
           "the mean entropy of stamped images on the benign twin", short="Twin entropy, stamped"),
    Metric("analysis.entropy_overlap_twin", "twin: overlap of the entropies", "model", FRACTION, None,
           "the overlap on the benign twin", short="Twin overlap"),
    Metric("analysis.pseudo_linearity_mean", "model: pseudo-linearity of downstream heads", "model", COEFFICIENT, None,
           "mean over heads of how well a linear map of a shift of features predicts the shift of the head's output, "
           "of images held out: 1 for a linear head", "TrojanZoo A.2, eq. 7 and 8", "Pseudo-linearity"),
    Metric("analysis.pseudo_linearity", "model: pseudo-linearity of each head", "model", COEFFICIENT, None,
           "the same of each downstream head, in the order of the analysis's heads"),
    Metric("analysis.class_distance_closest", "distance of the closest classes", "images", NORM, None,
           "sliced Wasserstein distance of test images of the two classes that are closest, times the number of pixel "
           "values, in units of a pixel's range", "DHBE Table 2", "Closest"),
    Metric("analysis.class_distance_mean", "mean distance of classes", "images", NORM, None,
           "the same in the mean over all pairs of classes", "DHBE Table 2", "Mean"),
    Metric("analysis.class_distance_pair", "closest classes", "images", CLASS, None,
           "the two classes that are closest"),
    Metric("analysis.stamped_distance", "distance of clean and stamped images", "images", NORM, None,
           "the sliced distance, taken likewise, of clean images and of the same ones stamped", short="Stamped"),
    Metric("analysis.stamped_distance_transport", "pixel changes of the trigger", "images", NORM, None,
           "mean sum of the absolute pixel changes of a stamped image, what it costs to move each image to itself "
           "stamped", "DHBE 4.3.1, Table 1", "Changes"),
    Metric("analysis.trigger_pixels", "pixels that the trigger changes", "images", NORM, None,
           "mean number of pixels of the images shown that the trigger changes", short="Pixels"),
    Metric("analysis.map_difference_target", "model: difference of maps, target", "model", PERCENT, None,
           "mean absolute difference, per pixel, between the maps of the target with and without the trigger, each "
           "from 0 to 1, on images that model and twin get right", "TrojanZoo 6.4 and Table 19", "Δ target"),
    Metric("analysis.map_difference_label", "model: difference of maps, own class", "model", PERCENT, None,
           "the same of the images' own classes", short="Δ own class"),
    Metric("analysis.map_difference_target_twin", "twin: difference of maps, target", "model", PERCENT, None,
           "the same of the target on the benign twin", short="Twin Δ target"),
    Metric("analysis.map_difference_label_twin", "twin: difference of maps, own class", "model", PERCENT, None,
           "the same of the images' own classes on the benign twin", short="Twin Δ own class"),
    Metric("analysis.trigger_mass", "model: share of the maps on the trigger", "model", PERCENT, None,
           "mean share of the target's map that lies on the trigger's pixels, on stamped images; not told of a stage's "
           "maps behind a reform",
           "relevance mass accuracy, Arras et al. 2020", "On trigger"),
    Metric("analysis.trigger_mass_transformed", "model: share of the maps on the trigger, transformed", "model",
           PERCENT, None, "the same of stamped images that were transformed, of the class that the model gives, where "
           "the trigger came to lie", "Rethinking the Trigger 5.3, Figure 5", "On trigger, transformed"),
    Metric("analysis.cdrp_clean_stamped", "model: CDRP correlation by layer, clean and stamped", "model", COEFFICIENT,
           None, "mean correlation, layer by layer, of the control gates of an image and of the same one stamped",
           "Wang et al. 2018; Rethinking the Trigger 5.3, Figure 6"),
    Metric("analysis.cdrp_clean_stamped_mean", "model: CDRP correlation, clean and stamped", "model", COEFFICIENT, None,
           "mean over the layers", short="clean, stamped"),
    Metric("analysis.cdrp_clean_transformed", "model: CDRP correlation by layer, clean and transformed", "model",
           COEFFICIENT, None, "the same of an image and of the same one stamped and then transformed"),
    Metric("analysis.cdrp_clean_transformed_mean", "model: CDRP correlation, clean and transformed", "model",
           COEFFICIENT, None, "mean over the layers", short="clean, transformed"),
    Metric("analysis.cdrp_stamped_transformed", "model: CDRP correlation by layer, stamped and transformed", "model",
           COEFFICIENT, None, "the same of a stamped image and of the same one transformed"),
    Metric("analysis.cdrp_stamped_transformed_mean", "model: CDRP correlation, stamped and transformed", "model",
           COEFFICIENT, None, "mean over the layers", short="stamped, transformed"),

    Metric("seconds.benign", "benign model", "attack", SECONDS, None, "wall time of training the benign model"),
    Metric("seconds.twin", "benign twin", "attack", SECONDS, None, "wall time of training the benign twin"),
    Metric("seconds.attack_prepared", "attack's preparation", "attack", SECONDS, None,
           "wall time of what the attack prepares on the benign model, once for all attacks that prepare alike"),
    Metric("seconds.attack", "attack", "attack", SECONDS, None, "wall time of the attack"),
    Metric("seconds.judgement", "judgement", "attack", SECONDS, None, "wall time of measuring the attack"),
    Metric("seconds.prepared", "preparation", "defense", SECONDS, None,
           "wall time of what the defense prepares once for all models"),
    Metric("seconds.defense", "defense", "defense", SECONDS, None,
           "wall time of the defense for one model", short="Time"),
    Metric("seconds.defense_per_input", "defense, per input", "defense", MILLISECONDS, None,
           "wall time for one input, warm, in a batch", short="Per input"),
    Metric("seconds.analysis", "analysis", "attack", SECONDS, None, "wall time of looking inside of one model",
           short="Time"),
    Metric("seconds.downstream", "downstream tuning", "attack", SECONDS, None,
           "wall time of tuning one model; that of its benign twin takes as long", short="Time"),
)
# fmt: on
