"""What a scan says of a model that somebody delivered: a typed document. Imports no torch."""

from collections.abc import Iterable, Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from gifthorse.core.record import Document, Environment, name_of

NOT_PROOF = "nothing can show that a model is clean"
BARELY_WORKS = "the model is hardly above chance on these images"


def hardly_works(accuracy: float, classes: int) -> bool:
    """Tell whether an accuracy is below twice that of guessing, or below a half where that is less."""
    return accuracy < min(2 / classes, 0.5)


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Calibration(_Part):
    """How large an index is in models of which the truth is known, one inspector on one population of ours.

    ``benign`` and ``trojaned`` hold the index of every model, larger = more suspicious. ``population`` names data set,
    architecture and attack. ``exact`` says that the inspector had the same settings there.
    """

    population: str
    benign: tuple[float, ...]
    trojaned: tuple[float, ...]
    exact: bool = True

    def as_large(self, index: float) -> tuple[int, int]:
        """Return how many benign models have an index as large, and how many there are."""
        return sum(value >= index for value in self.benign), len(self.benign)


class ClassFinding(_Part):
    """What an inspector found out about one class.

    ``index`` is the inspector's for this class alone, compared with its threshold as the model's is; ``size`` is the L1
    norm of the recovered mask in pixels, ``success`` the share of held-out images of other classes that the trigger
    brings there, each where there is one.
    """

    label: int
    index: float
    size: float | None = None
    success: float | None = None


class Inspection(_Part):
    """One inspector's part in a scan.

    ``index`` is what was compared with ``threshold``: above it the model is suspicious, and ``suspects`` are the
    classes behind it. ``index_name`` names the metric. ``reason`` says why an inspector was skipped. ``remarks`` are
    what limits its answer, a sentence each.
    """

    defense: dict[str, Any]
    status: Literal["done", "skipped"]
    reason: str | None = None
    index_name: str | None = None
    index: float | None = None
    threshold: float | None = None
    suspicious: bool = False
    suspects: tuple[int, ...] = ()
    classes: tuple[ClassFinding, ...] = ()
    calibrations: tuple[Calibration, ...] = ()
    remarks: tuple[str, ...] = ()
    seconds: float | None = None

    def false_alarms(self) -> tuple[int, int] | None:
        """Return how many benign models of the populations are above the threshold, and of how many; if known."""
        if self.threshold is None or not self.calibrations:
            return None
        above = sum(value > self.threshold for each in self.calibrations for value in each.benign)
        return above, sum(len(each.benign) for each in self.calibrations)

    def as_large(self) -> tuple[int, int] | None:
        """Return in how many benign models of the populations the index is as large, and of how many; if known."""
        if self.index is None or not self.calibrations:
            return None
        counts = [each.as_large(self.index) for each in self.calibrations]
        return sum(larger for larger, _ in counts), sum(of for _, of in counts)


class Images(_Part):
    """The images that a scan was given: where they lie, a digest of their content, how many, and how they were shown.

    ``mean`` and ``std`` are what the network's input is normalised by, on pixels in [0,1].
    """

    source: str
    digest: str
    count: int
    labelled: bool
    shape: tuple[int, int, int]
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None


class Scan(Document):
    """A model as it was delivered, and what inspectors made of it; nothing was trained on it.

    ``model`` holds the file's name, its SHA-256, the architecture and which part of the file was taken. ``accuracy`` is
    that on the given images, as delivered, where they have labels, ``accuracy_of`` their number. ``remarks`` are what
    was noticed while the model and the images were read. ``class_names`` are in the order of the labels.
    """

    command: str
    model: dict[str, Any]
    images: Images
    class_names: list[str]
    accuracy: float | None = None
    seed: int
    inspections: tuple[Inspection, ...]
    suspicious: bool
    blind_spots: tuple[str, ...]
    remarks: tuple[str, ...] = ()
    plugins: Mapping[str, str] = Field(default_factory=dict)
    seconds: float
    environment: Environment
    created: str

    @property
    def works(self) -> bool | None:
        """Whether accuracy as delivered is well above chance; ``None`` where it is not known."""
        return None if self.accuracy is None else not hardly_works(self.accuracy, len(self.class_names))

    @property
    def title(self) -> str:
        """The file and its architecture."""
        architecture = self.model.get("architecture")
        kind = name_of(architecture) if isinstance(architecture, Mapping) else "black box"
        return f"{self.model['file']} ({kind})"

    def verdict(self) -> str:
        """Return the answer in one sentence: suspicious or not, by which index, and how often benign models are."""
        done = [each for each in self.inspections if each.status == "done"]
        guilty = [each for each in done if each.suspicious]
        said = "; ".join(self._reason(each) for each in guilty or done)
        found = f"suspicious: {said}" if guilty else f"not suspicious, no class stands out: {said}"
        return found if self.works is not False else f"{found}; but {BARELY_WORKS}, so that this says little"

    def named(self, label: int) -> str:
        """Return a class by number, and by name where that says more."""
        name = self.class_names[label] if label < len(self.class_names) else str(label)
        return str(label) if name == str(label) else f"{label} ({name})"

    def _reason(self, each: Inspection) -> str:
        assert each.index is not None
        named = f"class {', '.join(map(self.named, each.suspects))} " if each.suspects else ""
        limit = "" if each.threshold is None else f", threshold {each.threshold:.3g}"
        known = each.as_large()
        told = "as large in {} of {} benign models of ours".format(*known) if known else "false alarms not measured"
        return f"{named}by {each.defense['name']} ({each.index_name} {each.index:.3g}{limit}; {told})"

    def _said(self) -> str:
        return f"scan of {self.title}: {self.verdict()}"

    def _numbers(self) -> Iterable[tuple[str, str]]:
        if self.accuracy is not None:
            yield "accuracy as delivered", f"{self.accuracy:.3f} of {self.images.count}"
        for each in self.inspections:
            shown = f"{each.index:.4g}" if each.index is not None else each.reason or "skipped"
            yield str(each.defense["name"]), shown
