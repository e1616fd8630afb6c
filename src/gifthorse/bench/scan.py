"""A scan: inspectors look at a model that somebody delivered, exactly as it was delivered.

What a record's judge knows is not known here: nobody tells whether there is a backdoor. So the indices are compared
with those of our own populations (:mod:`gifthorse.bench.calibration`).
"""

import shlex
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gifthorse.bench import calibration, portfolio
from gifthorse.bench.calibration import calibrations, threshold
from gifthorse.bench.cell import resolve
from gifthorse.bench.delivered import Delivered, Delivery, read_delivery
from gifthorse.bench.machine import environment, timed
from gifthorse.bench.plugins import plugins_of
from gifthorse.bench.portfolio import inspector
from gifthorse.bench.source import source_of, sources_of
from gifthorse.bench.store import Arrays, Store
from gifthorse.core.anomaly import anomaly_indices, median
from gifthorse.core.classifier import Classifier
from gifthorse.core.configuration import file_digest, fingerprint
from gifthorse.core.defense import Defense
from gifthorse.core.errors import NotApplicableError, RequestError
from gifthorse.core.images import to_levels
from gifthorse.core.metric import METRICS
from gifthorse.core.outcomes import ModelVerdict, Outcome
from gifthorse.core.progress import track
from gifthorse.core.scan import NOT_PROOF, ClassFinding, Inspection, Scan
from gifthorse.core.scan import Images as GivenImages
from gifthorse.core.seeds import derive
from gifthorse.core.views import DataFreeView, Materials, ModelView
from gifthorse.training.scratch import FromScratch

SHOWN = 6
"""Images that each trigger is shown on."""
TRIGGERS = 8
"""Classes whose triggers are kept, the most suspicious ones."""

RATIO = "defense.aiv_ratio"

BLIND_SPOTS = (
    NOT_PROOF,
    "a trigger that covers or warps the whole image, or depends on it, may leave no small mask behind",
    "a module that answers in the network's place (ESB) was found by none of these inspectors in our populations",
    "the false alarms are those of small networks on digits and MNIST; a network like yours may have others",
)


@dataclass(frozen=True)
class ScanRequest:
    """What a scan is asked for: what was delivered, and how to look at it.

    ``defenses`` are requests; without any the inspectors are chosen that fit in ``budget`` minutes. With some, none is
    begun after that time.
    """

    delivery: Delivery
    defenses: tuple[str, ...] = ()
    budget: float = 10.0
    seed: int = 0

    def command(self, plugins: Iterable[str] = ()) -> str:
        """Return the command line that scans the model again."""
        given = self.delivery
        options: dict[str, Any] = {
            "--model": given.architecture,
            "--data": given.data,
            "--dataset": given.dataset,
            "--size": given.size and "x".join(map(str, given.size)),
            "--mean": given.mean and ",".join(map(str, given.mean)),
            "--std": given.std and ",".join(map(str, given.std)),
            "--classes": given.classes,
            "--entry": given.entry,
            "--prefix": given.prefix,
            "--budget": None if self.budget == ScanRequest.budget else f"{self.budget:g}",
            "--seed": self.seed or None,
        }
        said = [(option, str(value)) for option, value in options.items() if value is not None]
        said += [("--defense", request) for request in self.defenses] + [("--plugin", path) for path in plugins]
        return " ".join(["gifthorse scan", shlex.quote(str(given.model)), *(f"{o} {shlex.quote(v)}" for o, v in said)])


def scan(
    asked: ScanRequest,
    store: Store,
    data_root: Path,
    device: torch.device,
    *,
    fresh: bool = False,
    tell: Callable[[str], None] = lambda _: None,
) -> Scan:
    """Inspect a model as it was delivered, and keep what was found in the store; a kept answer is given again.

    ``tell`` is called with a line on what is about to be done. :class:`RequestError` where the request was wrong,
    before any inspector runs; :class:`gifthorse.core.errors.NotApplicableError` where no inspector can look at it.
    """
    began = time.perf_counter()
    chosen = [inspector(request) for request in asked.defenses]
    delivered = read_delivery(asked.delivery, data_root, store.root, device)
    identity = _identity(asked, chosen, delivered)
    kept = None if fresh else store.load_scan(identity)
    if kept is not None:
        return kept
    # A black box is refused by whatever needs more than its answers.
    view = ModelView(delivered.model, delivered.images, trainer=_trainer(delivered))  # type: ignore[arg-type]
    remarks = list(delivered.remarks)
    delivered = replace(delivered, model=view.model)  # the one copy
    if not chosen:
        chosen, left_out, estimate = _chosen(delivered, asked)
        remarks += left_out
        tell(f"{', '.join(str(each) for each in chosen)}: about {_spoken(estimate)}")
    inspections, arrays = [], {"clean": _levels(delivered.images.take(slice(SHOWN)).floats())}
    for number, defense in enumerate(track(chosen, "scan", len(chosen))):
        if number and time.perf_counter() - began > 60 * asked.budget:
            reason = f"not begun: the budget of {asked.budget:g} minutes was spent"
            inspections.append(Inspection(defense=defense.to_dict(), status="skipped", reason=reason))
            continue
        inspection, found = _inspect(defense, view, delivered, store, asked.seed)
        inspections.append(inspection)
        arrays |= {f"{number}/{name}": array for name, array in found.items()}
    if all(each.status == "skipped" for each in inspections):
        reasons = "; ".join(f"{each.defense['name']}: {each.reason}" for each in inspections)
        raise NotApplicableError(f"no inspector can look at this model ({reasons})")
    found_scan = _document(asked, identity, delivered, chosen, inspections, remarks, time.perf_counter() - began)
    store.save_artifact("scan", identity, arrays, {})
    store.save_scan(found_scan)
    return found_scan


def _chosen(delivered: Delivered, asked: ScanRequest) -> tuple[list[Defense[Any]], list[str], float]:
    if isinstance(delivered.model, Classifier):
        return portfolio.chosen(delivered.model, delivered.images, 60 * asked.budget)
    if delivered.architecture is None or not delivered.labelled:
        raise RequestError(
            f"{asked.delivery.model} is a black box without gradients: only 'mntd' can question it, which trains "
            "models of its own to compare with: give these an architecture (--model small_cnn) and labelled images"
        )
    return [inspector("mntd[threshold=calibrated]")], [], 60 * asked.budget


def _inspect(
    defense: Defense[Any], view: ModelView, delivered: Delivered, store: Store, seed: int
) -> tuple[Inspection, Arrays]:
    settings = defense.to_dict()
    shown = view if issubclass(ModelView, defense.sees()) else None
    if shown is None:
        needs = f"needs a {defense.sees().__name__}, more than a model and clean images"
        return Inspection(defense=settings, status="skipped", reason=needs), {}
    reason = defense.skip(view)
    if reason is not None:
        return Inspection(defense=settings, status="skipped", reason=reason), {}

    def look() -> Outcome:
        return defense.defend(_prepared(defense, view, delivered, store), derive(seed, "defense"))

    try:
        outcome, seconds = timed(look, view.device)
    except NotApplicableError as error:
        return Inspection(defense=settings, status="skipped", reason=str(error)), {}
    if not isinstance(outcome, ModelVerdict):
        other = f"answers with a {type(outcome).__name__} and gives no verdict on the model"
        return Inspection(defense=settings, status="skipped", reason=other), {}
    return _judged(settings, outcome, seconds), _pictures(outcome, view)


def _prepared(defense: Defense[Any], view: ModelView, delivered: Delivered, store: Store) -> DataFreeView:
    """Return the view with what the defense makes before it looks: models of its own, on the defender's images.

    It hangs on no model in question, so it is kept for the next scan with these images.
    """
    settings = defense.preparation()
    if settings is None:
        return view
    trainer = _trainer(delivered)
    if trainer is None:
        raise NotApplicableError("trains models of its own to compare with: say their architecture with --model")
    key = fingerprint(
        {
            "settings": settings,
            "images": [delivered.digest, list(view.shape), list(delivered.class_names), delivered.labelled],
            "trainer": [trainer.architecture.to_dict(), trainer.recipe.to_dict()],
            "source": sources_of(*defense.walk(), trainer.architecture, trainer.recipe),
        }
    )
    found = store.load_artifact("prepared", key)
    if found is None:
        made = defense.prepare(Materials(view.clean, trainer), derive(0, "defender"))
        found = {name: tensor.detach().cpu().numpy() for name, tensor in made.items()}, {}
        store.save_artifact("prepared", key, *found)
    kept = {name: torch.from_numpy(array.copy()).to(view.device) for name, array in found[0].items()}
    return replace(view, prepared=kept)


def _trainer(delivered: Delivered) -> FromScratch | None:
    """Return how models of the delivered one's architecture are trained here; how it was itself, nobody knows."""
    if delivered.architecture is None:
        return None
    return FromScratch(delivered.architecture, resolve(dataset="digits").training)


def _judged(settings: dict[str, Any], outcome: ModelVerdict, seconds: float) -> Inspection:
    """Compare an index with those of our populations: the best one known for the inspector, or its own."""
    metric, known = calibrations(settings)
    readouts = {f"defense.aiv_{name}": value for name, value in outcome.readouts.items()}
    if metric in readouts:
        index = readouts[metric]
    else:
        metric, index = "defense.index", outcome.index
    limit, indices = threshold(known), _indices(outcome, metric)
    suspicious = bool(outcome.flagged) if limit is None else index > limit
    own = outcome.findings.get("meta_threshold")
    remarks = []
    if known and not known[0].exact:
        remarks.append("measured on our populations with other settings than here")
    if not known:
        remarks.append("never measured on a population of ours: its own threshold counts")
    return Inspection(
        defense=settings,
        status="done",
        index_name=METRICS.find(metric).title,
        index=index,
        threshold=own if limit is None and isinstance(own, float) else limit,
        suspicious=suspicious,
        suspects=_suspects(outcome, indices, limit) if suspicious else (),
        classes=_by_class(outcome, indices),
        calibrations=known,
        remarks=tuple(remarks),
        seconds=round(seconds, 3),
    )


def _indices(outcome: ModelVerdict, metric: str) -> Tensor | None:
    """Return every class's own index ``(K,)``, of which the model's is the largest; ``None`` without scores."""
    scores = outcome.scores
    if scores is None:
        return None
    if metric == RATIO:
        return median(-scores) / (-scores).clamp_min(1e-6)
    return scores if outcome.decisive is not None else anomaly_indices(scores)


def _suspects(outcome: ModelVerdict, indices: Tensor | None, limit: float | None) -> tuple[int, ...]:
    """Return the classes that make a model suspicious: all whose own index is above the limit."""
    if indices is None or limit is None:
        return outcome.suspects or ()
    return tuple((indices > limit).nonzero().flatten().tolist()) or (int(indices.argmax()),)


def _by_class(outcome: ModelVerdict, indices: Tensor | None) -> tuple[ClassFinding, ...]:
    if indices is None:
        return ()
    triggers, nothing = outcome.triggers, [None] * len(indices)
    sizes = nothing if triggers is None else triggers.mask.abs().sum((1, 2, 3)).tolist()
    success = nothing if triggers is None or triggers.success is None else triggers.success.tolist()
    return tuple(
        ClassFinding(label=label, index=index, size=sizes[label], success=success[label])
        for label, index in enumerate(indices.tolist())
    )


def _pictures(outcome: ModelVerdict, view: ModelView) -> Arrays:
    """Return the most suspicious triggers, and some of the defender's images of other classes with each."""
    triggers, scores = outcome.triggers, outcome.scores
    if triggers is None or scores is None:
        return {}
    labels = scores.argsort(descending=True)[:TRIGGERS]
    stamped = []
    for label in labels.tolist():
        others = view.clean.take((view.clean.labels != label).nonzero().flatten()[:SHOWN])
        shown = triggers.stamp(others.floats(), label)
        stamped.append(torch.cat([shown, shown.new_zeros(SHOWN - len(shown), *shown.shape[1:])]))
    return {
        "labels": labels.cpu().numpy(),
        "masks": _levels(triggers.mask[labels].abs().clamp(0, 1)),
        "patterns": _levels(triggers.pattern[labels]),
        "stamped": _levels(torch.stack(stamped)) if stamped else _levels(triggers.pattern[:0]),
    }


def _levels(pixels: Tensor) -> Any:
    return to_levels(pixels.detach()).cpu().contiguous().numpy()


def _identity(asked: ScanRequest, chosen: Sequence[Defense[Any]], delivered: Delivered) -> str:
    given = asked.delivery
    architecture = delivered.architecture
    return fingerprint(
        {
            "model": file_digest(given.model),
            "architecture": architecture and architecture.to_dict(),
            "images": delivered.digest,
            "shape": list(delivered.images.shape),
            "classes": list(delivered.class_names),
            "how": [given.mean, given.std, given.entry, given.prefix],
            "defenses": [each.to_dict() for each in chosen],
            "source": sources_of(*chosen, *([architecture] if architecture else [])),
            # Which inspectors are chosen, and what their indices are compared with.
            "scan": [
                *(source_of(module) for module in (__name__, calibration.__name__, portfolio.__name__)),
                calibration.known(),
            ],
            "budget": asked.budget,
            "seed": asked.seed,
        }
    )


def _document(
    asked: ScanRequest,
    identity: str,
    delivered: Delivered,
    chosen: Sequence[Defense[Any]],
    inspections: Sequence[Inspection],
    remarks: Sequence[str],
    seconds: float,
) -> Scan:
    given, model = asked.delivery, delivered.model
    used = plugins_of(*map(type, [*chosen, *([delivered.architecture] if delivered.architecture else [])]))
    plugins = {str(each.source.path): each.source.digest for each in used}
    absent = set(range(model.classes)) - set(delivered.images.labels.tolist())
    blind: tuple[str, ...] = BLIND_SPOTS
    if absent and len(absent) < model.classes:
        names = ", ".join(delivered.class_names[label] for label in sorted(absent)[:10])
        blind += (f"there were no images of {len(absent)} classes ({names}{', …' if len(absent) > 10 else ''})",)
    return Scan(
        id=identity,
        command=asked.command(plugins),
        model={
            "file": given.model.name,
            "digest": file_digest(given.model),
            "architecture": delivered.architecture and delivered.architecture.to_dict(),
            "entry": given.entry,
            "prefix": given.prefix,
        },
        images=GivenImages(
            source=str(given.data or given.dataset),
            digest=delivered.digest,
            count=len(delivered.images),
            labelled=delivered.labelled,
            shape=delivered.images.shape,
            mean=tuple(model.normalise.mean.flatten().tolist()),
            std=tuple(model.normalise.std.flatten().tolist()),
        ),
        class_names=list(delivered.class_names),
        accuracy=delivered.accuracy,
        seed=asked.seed,
        inspections=tuple(inspections),
        suspicious=any(each.suspicious for each in inspections),
        blind_spots=blind,
        remarks=tuple(remarks),
        plugins=plugins,
        seconds=round(seconds, 3),
        environment=environment(delivered.images.device),
        created=datetime.now(UTC).isoformat(timespec="milliseconds"),
    )


def _spoken(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"
