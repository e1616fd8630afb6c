"""What a screen flagged, for a person to look at, and what that person made of it."""

import hashlib
from dataclasses import dataclass

import numpy as np

from gifthorse.core.record import Record, Review, name_of
from gifthorse.report.evidence import Arrays, drawable
from gifthorse.report.naming import class_label
from gifthorse.report.pictures import Pictures


@dataclass(frozen=True)
class Flagged:
    """One flagged image: the numbers of its picture and of its attribution, and what is known of it."""

    picture: int
    attribution: int | None
    caption: str


def reviewable(evidence: Arrays) -> bool:
    """Tell whether a record keeps flagged images."""
    return "flagged" in evidence and drawable(evidence["flagged"])


def digest_of(evidence: Arrays) -> str:
    """Return the SHA-256 of the flagged images, in their order."""
    return hashlib.sha256(np.ascontiguousarray(evidence["flagged"]).tobytes()).hexdigest()


def contact_sheet(record: Record, evidence: Arrays) -> str:
    """Return every flagged image that a record keeps as one HTML document, without telling which carry a trigger."""
    from gifthorse.report.html import TEMPLATES

    pictures, shares = Pictures(), evidence.get("flagged_attributions")
    images = [
        Flagged(
            pictures.number(evidence["flagged"][[number]]),
            None if shares is None else pictures.number(shares[[number]]),
            f"taken for {class_label(int(answer), record.class_names)}, score {score:.3g}",
        )
        for number, (answer, score) in enumerate(
            zip(evidence["flagged_answers"], evidence["flagged_scores"], strict=True)
        )
    ]
    asked = " → ".join(name_of(each) for each in (record.attack, record.defense) if each)
    page = TEMPLATES.get_template("review.html.j2").render(
        title=f"Flagged: {asked} on {name_of(record.dataset)}, seed {record.seed}",
        record=record,
        images=images,
        attributed=shares is not None,
        pictures=pictures,
    )
    return page.lstrip()


def review_of(record: Record, evidence: Arrays, rejected: set[int], by: str | None, created: str) -> Review:
    """Return the review of a record that rejects the flagged images of these numbers and lets all others in."""
    stamped = evidence["flagged_stamped"].astype(bool)
    turned_away = np.isin(np.arange(len(stamped)), list(rejected))
    return Review(
        id=record.id,
        by=by,
        rejected=sorted(rejected),
        pictures=digest_of(evidence),
        stamped=int(stamped.sum()),
        stamped_rejected=int((stamped & turned_away).sum()),
        clean=int((~stamped).sum()),
        clean_rejected=int((~stamped & turned_away).sum()),
        created=created,
    )


def said_of_review(review: Review | None, record: Record, evidence: Arrays) -> str:
    """Return in a sentence what became of the images that were looked at; nothing where there are others by now.

    The shares that screen and person together turn away are estimates: those of the screen times what the person
    rejected of the images shown.
    """
    if review is None or not reviewable(evidence) or review.pictures != digest_of(evidence):
        return ""
    who = f" by {review.by}" if review.by else ""
    text = f"Reviewed{who} on {review.created[:10]}: of the flagged images shown, "
    text += f"{review.stamped_rejected} of {review.stamped} stamped and {review.clean_rejected} of {review.clean} "
    text += "clean ones were rejected."
    parts = {
        "stamped": (record.metrics.get("defense.tpr"), review.stamped_rejected, review.stamped),
        "clean": (record.metrics.get("defense.fpr"), review.clean_rejected, review.clean),
    }
    left = [
        f"{100 * rate * rejected / shown:.1f} % of {which} images (the screen alone {100 * rate:.1f} %)"
        for which, (rate, rejected, shown) in parts.items()
        if isinstance(rate, float) and shown
    ]
    return text + (f" Together they turn away, by estimate, {' and '.join(left)}." if left else "")
