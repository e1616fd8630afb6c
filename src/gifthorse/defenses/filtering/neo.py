"""NEO: where a blocker changes an input's label it may hide a trigger, which would change that of clean images too.

Paper: Udeshi et al. 2019, arXiv:1908.02203, section 4; TrojanZoo section 4.3 and Table 21 (3 colours, threshold 80 %).
Differs: the size of the blocker is an assumption of the defender (TrojanZoo's code takes the attacker's own), and it
    slides over all positions, of which TrojanZoo's code draws 100 (``positions=100``). What it hides is confirmed by
    the clean images whose label changes; ``confirmed_by=label`` counts those alone that get the input's label, of the
    images of other classes. The score is the largest share over all positions, so that it is continuous. The threshold
    is the published share; ``threshold=quantile`` takes the quantile of clean images' scores at ``fpr`` instead. A
    position that was confirmed is not carried over to the inputs that follow: their answers would depend on which came
    before. Whoever has one says so (``known=[[13,13]]``): it is tried first, and where it is confirmed again no other
    is.
"""

from typing import Annotated, Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor, nn

from gifthorse.core.classifier import inference_batch, predict
from gifthorse.core.clustering import k_means
from gifthorse.core.defense import CleanImagesDefense
from gifthorse.core.images import to_floats
from gifthorse.core.outcomes import InputScreen
from gifthorse.core.progress import track
from gifthorse.core.seeds import generator
from gifthorse.core.views import ModelView
from gifthorse.inversion.frozen import freeze


class Found(NamedTuple):
    """Per input: the label as it is, the largest share of clean images ``(N,)``, and where ``(N, 2)``, top and left."""

    label: Tensor
    share: Tensor
    place: Tensor


class Neo(CleanImagesDefense[ModelView]):
    """Flags inputs of which a small part changes the labels of clean images that it is pasted on; hides that part."""

    name = "neo"
    paper = "Udeshi et al. 2019, arXiv:1908.02203"
    variants = ("neo[threshold=quantile]", "neo[confirmed_by=label,positions=20,known=[[0,1]]]")
    family = "filtering"
    view = ModelView
    black_box = True

    blocker_size: int = Field(3, ge=1, description="height and width that triggers are assumed to have, in pixels")
    colours: int = Field(3, ge=1, description="clusters of an image's colours; the blocker has that of the largest")
    positions: int | None = Field(None, ge=1, description="positions tried, drawn at random; null: all there are")
    confirmations: int = Field(100, ge=1, description="clean images that what the blocker hides is pasted on")
    confirmed_by: Literal["change", "label"] = Field(
        "change", description="change: by images whose label changes; label: by those that get the input's label"
    )
    threshold: Annotated[float, Field(ge=0, lt=1)] | Literal["quantile"] = Field(
        0.8,
        description="share of clean images above which an input is flagged; quantile: that of clean images at fpr",
    )
    fpr: float = Field(
        0.05, gt=0, lt=1, description="false positive rate that the threshold is set for where it is a quantile"
    )
    known: tuple[tuple[int, int], ...] = Field((), description="positions confirmed before, as [top,left]; tried first")

    def skip(self, view: ModelView) -> str | None:
        """Ask for enough clean images, for images larger than the blocker, and for known positions inside of them."""
        needed = self.confirmations + (-int(-1 // self.fpr) if self.threshold == "quantile" else 0)
        if len(view.clean) < needed:
            return f"needs {needed} clean images; there are {len(view.clean)}"
        height, width = (side - self.blocker_size for side in view.shape[1:])
        if min(height, width) < 0:
            return f"a blocker of {self.blocker_size} pixels is larger than images of {'×'.join(map(str, view.shape))}"
        if any(not (0 <= top <= height and 0 <= left <= width) for top, left in self.known):
            return f"a known position is outside of images of {'×'.join(map(str, view.shape))}"
        return None

    def defend(self, view: ModelView, seed: int) -> InputScreen:
        """Draw the clean images and the positions; a threshold that is not given is set on the other clean images."""
        order = torch.randperm(len(view.clean), generator=generator(seed, self.name, "clean")).to(view.device)
        search = Search(self, freeze(view.model), to_floats(view.clean.pixels[order[: self.confirmations]]), seed)
        threshold = self.threshold
        if threshold == "quantile":
            others = to_floats(view.clean.pixels[order[self.confirmations :]])
            threshold = float(search.find(others).share.quantile(1 - self.fpr, interpolation="higher"))
            search.flag_above(threshold)
        return InputScreen(lambda pixels: search.find(pixels).share, threshold, model=search)


class Search(nn.Module):
    """Finds the most convincing position of inputs; called as a model, it answers with that position blocked.

    Images are rows of numbers here, colours innermost, ``(N, H·W·C)``: so little else is touched than what changes.
    """

    def __init__(self, settings: Neo, model: nn.Module, clean: Tensor, seed: int):
        super().__init__()
        self.settings, self.model, self.device = settings, model, clean.device
        self.threshold = 1.0 if settings.threshold == "quantile" else settings.threshold
        self.channels, self.height, self.width = clean.shape[1:]
        self.clean, self.clean_labels = _rows(clean), predict(model, clean).argmax(1)
        self.draws = torch.rand(1, settings.colours, generator=generator(seed, "neo", "colours")).to(self.device)
        size = settings.blocker_size
        first, row = torch.arange(size * self.channels), torch.arange(size) * self.width * self.channels
        self.window = (row.unsqueeze(1) + first).flatten().to(self.device)
        every = torch.cartesian_prod(torch.arange(self.height - size + 1), torch.arange(self.width - size + 1))
        if settings.positions is not None:
            order = torch.randperm(len(every), generator=generator(seed, "neo", "positions"))
            every = every[order[: settings.positions].sort().values]
        self.places = every.to(self.device)
        self.searched, self.found = _rows(clean[:0]), Found(*torch.zeros(3, 0))
        self.known = torch.tensor(settings.known, dtype=torch.long, device=self.device).view(-1, 2)

    def flag_above(self, threshold: float) -> None:
        """Set the threshold, on which it depends where the search of an input ends."""
        self.threshold, self.searched = threshold, self.searched[:0]

    @torch.inference_mode()
    def forward(self, pixels: Tensor) -> Tensor:
        """Return logits ``(N, K)`` of inputs ``(N, C, H, W)``, those of flagged ones with what was found blocked."""
        found, rows = self.find(pixels), _rows(pixels.to(self.device))
        blocked = rows.scatter(1, self.covered(found.place), self.blocker(rows))
        return self.respond(torch.where((found.share > self.threshold).unsqueeze(1), blocked, rows))

    @torch.inference_mode()
    def find(self, pixels: Tensor) -> Found:
        """Return what was found of inputs ``(N, C, H, W)``, a few at a time.

        Whoever scores inputs may want them answered as well: those of the last call, or some in a row, are not searched
        again.
        """
        rows = _rows(pixels.to(self.device))
        if len(rows):
            start = int((self.searched == rows[0]).all(1).int().argmax()) if len(self.searched) else 0
            those = slice(start, start + len(rows))
            if torch.equal(self.searched[those], rows):
                return Found(*(part[those] for part in self.found))
        parts = rows.split(inference_batch(self.device))
        found = [self._find(part) for part in track(parts, "neo", len(parts))]
        self.searched, self.found = rows, Found(*map(torch.cat, zip(*found, strict=True)))
        return self.found

    def respond(self, rows: Tensor) -> Tensor:
        """Return the logits ``(N, K)`` of images; of none, which not every network takes, ``(0, 1)``."""
        if not len(rows):
            return rows.new_zeros(0, 1)
        logits: Tensor = self.model(rows.view(-1, self.height, self.width, self.channels).permute(0, 3, 1, 2))
        return logits

    def blocker(self, rows: Tensor) -> Tensor:
        """Return what a blocker shows ``(N, S·S·C)``: the mean colour of an image's largest cluster of colours."""
        clusters, colours = self.settings.colours, rows.unflatten(1, (-1, self.channels))
        centres, cluster = k_means(colours, clusters, self.draws.expand(len(rows), -1))
        largest = torch.nn.functional.one_hot(cluster, clusters).sum(1).argmax(1)
        return centres[torch.arange(len(rows), device=self.device), largest].repeat(1, self.settings.blocker_size**2)

    def covered(self, place: Tensor) -> Tensor:
        """Return where in a row ``(N, S·S·C)`` the numbers are that a blocker at a place ``(N, 2)`` covers."""
        return (place[:, :1] * self.width + place[:, 1:]) * self.channels + self.window

    def _find(self, rows: Tensor) -> Found:
        label, blocker = self.respond(rows).argmax(1), self.blocker(rows)
        share, place = self._try(rows, label, blocker, self.known)
        rest = (share <= self.threshold).nonzero().squeeze(1)
        if len(rest):
            best, there = self._try(rows[rest], label[rest], blocker[rest], self.places)
            better = best >= share[rest]
            share[rest] = torch.where(better, best, share[rest])
            place[rest] = torch.where(better.unsqueeze(1), there, place[rest])
        return Found(label, share, place)

    def _try(self, rows: Tensor, label: Tensor, blocker: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
        """Block every place of every image, and confirm those at which the label changes; the best share, and where."""
        if not len(places):
            return torch.zeros(len(rows), device=self.device), torch.zeros_like(label).unsqueeze(1).repeat(1, 2)
        shares, covered = torch.zeros(len(rows), len(places), device=self.device), self.covered(places)
        pairs = torch.cartesian_prod(*(torch.arange(count, device=self.device) for count in shares.shape))
        changed = []
        for part in pairs.split(inference_batch(self.device)):
            image, place = part.unbind(1)
            blocked = _take(rows, image).scatter_(1, _take(covered, place), _take(blocker, image))
            changed.append(self.respond(blocked).argmax(1) != label[image])
        image, place = pairs[torch.cat(changed)].unbind(1)
        shares[image, place] = self._confirm(rows, label, image, covered[place])
        return shares.amax(1), places[shares.argmax(1)]

    def _confirm(self, rows: Tensor, label: Tensor, image: Tensor, covered: Tensor) -> Tensor:
        """Return the share ``(M,)`` of clean images whose label changes with what an image shows at a place."""
        wanted, hidden = label[image], rows[image].gather(1, covered)
        by_label = self.settings.confirmed_by == "label"
        asked = (wanted.unsqueeze(1) != self.clean_labels) | (not by_label)
        hits = torch.zeros(len(image), device=self.device)
        for part in asked.nonzero().split(inference_batch(self.device)):
            one, other = part.unbind(1)
            pasted = _take(self.clean, other).scatter_(1, _take(covered, one), _take(hidden, one))
            new = self.respond(pasted).argmax(1)
            hits.index_add_(0, one, (new == wanted[one] if by_label else new != self.clean_labels[other]).float())
        return hits / asked.sum(1).clamp_min(1)


def _rows(pixels: Tensor) -> Tensor:
    return pixels.permute(0, 2, 3, 1).flatten(1)


def _take(rows: Tensor, index: Tensor) -> Tensor:
    return rows.index_select(0, index)  # a fifth of the time of indexing
