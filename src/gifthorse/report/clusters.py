"""Maps of features in a page: every image a dot, its cluster a colour; pointed at, a translated image shows itself."""

import base64
import io
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup
from PIL import Image

SIDE, MARGIN, PICTURE = 240, 8, 72
"""Pixels of the page: the side of a map, the edge that stays free, the side of a picture that is pointed at."""
COLOURS = 7
"""Clusters with a colour of their own; further ones begin anew."""


@dataclass(frozen=True, eq=False)
class ClusterMap:
    """The features of one class in two dimensions: ``points (N, 2)``, ``clusters int (N,)``, which are ``translated``.

    The first P translated points are those of ``pictures uint8 (P, C, H, W)``.
    """

    points: np.ndarray
    clusters: np.ndarray
    translated: np.ndarray
    pictures: np.ndarray

    @property
    def count(self) -> int:
        """Return how many clusters there are; what is in none, -1, is noise."""
        return len(set(self.clusters[self.clusters >= 0].tolist()))


def cluster_maps(evidence: Mapping[str, np.ndarray]) -> dict[int, ClusterMap]:
    """Return the maps of a record's evidence by class; none where it has none."""
    names = ("points", "point_clusters", "point_translated", "point_classes", "translated")
    if any(name not in evidence for name in names):
        return {}
    points, clusters, translated, classes, pictures = (evidence[name] for name in names)
    found = {}
    for label in np.unique(classes).tolist():
        here = classes == label
        if label < len(pictures) and np.isfinite(points[here]).all():
            found[int(label)] = ClusterMap(points[here], clusters[here], translated[here], pictures[label])
    return found


def to_svg(each: ClusterMap, summary: str, *, with_pictures: bool) -> Markup:
    """Return a map as SVG, described by a summary for who does not see it."""
    low, span = each.points.min(0), max(float(np.ptp(each.points, axis=0).max()), 1e-9)
    places = np.rint(MARGIN + (SIDE - 2 * MARGIN) * (each.points - low) / span).astype(int)
    parts = [Markup('<svg class="map" viewBox="0 0 {0} {0}" role="img" aria-label="{1}">').format(SIDE, summary)]
    for cluster in np.unique(each.clusters).tolist():
        colour = "noise" if cluster < 0 else f"k{cluster % COLOURS}"
        for kind, chosen in (("real", ~each.translated), ("moved", each.translated)):
            here = places[(each.clusters == cluster) & chosen]
            if len(here):
                dots = "".join(f"M{x} {y}h0" for x, y in here.tolist())
                parts.append(Markup('<path class="{} {}" d="{}"/>').format(kind, colour, dots))
    if with_pictures:
        for (x, y), pixels in zip(places[each.translated].tolist(), each.pictures, strict=False):
            left, top = min(x + 6, SIDE - PICTURE), min(y + 6, SIDE - PICTURE)
            parts.append(
                Markup(
                    '<g class="seen" tabindex="0"><circle cx="{}" cy="{}" r="4"/>'
                    '<image x="{}" y="{}" width="{}" height="{}" href="{}"/></g>'
                ).format(x, y, left, top, PICTURE, PICTURE, _uri(pixels))
            )
    return Markup("").join([*parts, Markup("</svg>")])


def _uri(pixels: np.ndarray) -> str:
    colours = pixels if len(pixels) == 3 else np.repeat(pixels[:1], 3, axis=0)
    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(colours.transpose(1, 2, 0))).save(file, "WEBP", quality=60, method=1)
    return f"data:image/webp;base64,{base64.b64encode(file.getvalue()).decode()}"
