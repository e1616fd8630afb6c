"""NEO: where a blocker changes an input's label it may hide a trigger, which would change that of clean images too.

Paper: Udeshi et al. 2019, arXiv:1908.02203, section 4; TrojanZoo section 4.3 and Table 21 (3 colours, threshold 80 %).
Differs: the size of the blocker is an assumption of the defender (TrojanZoo's code takes the attacker's own), and it
    slides over all positions, of which TrojanZoo's code draws 100 (``positions=100``). What it hides is confirmed by
    the clean images whose label changes; ``confirmed_by=label`` counts those alone that get the input's label, of the
    images of other classes. The score is the largest share over all positions, so that it is continuous. The threshold
    is the published share; ``threshold=null`` takes the quantile of clean images' scores at ``fpr`` instead. A position
    that was confirmed is not carried over to the inputs that follow: their answers would depend on which came before.
    Whoever has one says so (``known=[[13,13]]``): it is tried first, and where it is confirmed again no other is.
"""

from typing import Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor, nn

from gifthorse.core.classifier import inference_batch, predict
from gifthorse.core.clustering import k_means
from gifthorse.core.defense import Defense
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


class Neo(Defense[ModelView]):
    """Flags inputs of which a small part changes the labels of clean images that it is pasted on; hides that part."""

    name = "neo"
    paper = "Udeshi et al. 2019, arXiv:1908.02203"
    variants = ("neo[threshold=null]", "neo[confirmed_by=label,positions=20,known=[[0,1]]]")
    family = "filtering"
    view = ModelView

    blocker_size: int = Field(3, ge=1, description="height and width that triggers are assumed to have, in pixels")
    colours: int = Field(3, ge=1, description="clusters of an image's colours; the blocker has that of the largest")
    positions: int | None = Field(None, ge=1, description="positions tried, drawn at random; null: all there are")
    confirmations: int = Field(100, ge=1, description="clean images that what the blocker hides is pasted on")
    confirmed_by: Literal["change", "label"] = Field(
        "change", description="change: by images whose label changes; label: by those that get the input's label"
    )
    threshold: float | None = Field(
        0.8, ge=0, lt=1, description="share of clean images above which an input is flagged"
    )
    fpr: float = Field(
        0.05, gt=0, lt=1, description="false positive rate that the threshold is set for where it is null"
    )
    known: tuple[tuple[int, int], ...] = Field((), description="positions confirmed before, as [top,left]; tried first")

    def skip(self, view: ModelView) -> str | None:
        """Ask for enough clean images, for images larger than the blocker, and for known positions inside of them."""
        needed = self.confirmations + (-int(-1 // self.fpr) if self.threshold is None else 0)
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
        if threshold is None:
            others = to_floats(view.clean.pixels[order[self.confirmations :]])
            threshold = float(search.find(others).share.quantile(1 - self.fpr, interpolation="higher"))
            search.threshold = threshold
        return InputScreen(lambda pixels: search.find(pixels).share, threshold, model=search)


class Search(nn.Module):
    """Finds the most convincing position of inputs; called as a model, it answers with that position hidden."""

    def __init__(self, settings: Neo, model: nn.Module, clean: Tensor, seed: int):
        super().__init__()
        self.settings, self.model, self.clean = settings, model, clean
        self.threshold = settings.threshold or 0.0
        self.clean_labels = predict(model, clean).argmax(1)
        self.draws = torch.rand(1, settings.colours, generator=generator(seed, "neo", "colours")).to(clean.device)
        size, (height, width) = settings.blocker_size, clean.shape[2:]
        every = torch.cartesian_prod(torch.arange(height - size + 1), torch.arange(width - size + 1))
        if settings.positions is not None:
            order = torch.randperm(len(every), generator=generator(seed, "neo", "positions"))
            every = every[order[: settings.positions].sort().values]
        self.places = every.to(clean.device)
        self.known = torch.tensor(settings.known, dtype=torch.long, device=clean.device).view(-1, 2)

    @torch.inference_mode()
    def forward(self, pixels: Tensor) -> Tensor:
        """Return logits ``(N, K)`` of inputs ``(N, C, H, W)``, those of flagged ones with what was found blocked."""
        found = self.find(pixels)
        hidden = self.block(pixels, self.dominant(pixels), found.place)
        flagged = (found.share > self.threshold).view(-1, 1, 1, 1)
        logits: Tensor = self.model(torch.where(flagged, hidden, pixels))
        return logits

    @torch.inference_mode()
    def find(self, pixels: Tensor) -> Found:
        """Return what was found of inputs ``(N, C, H, W)``, a few at a time."""
        parts = pixels.to(self.clean.device).split(inference_batch(self.clean.device))
        found = [self._find(part) for part in track(parts, "neo", len(parts))]
        return Found(*map(torch.cat, zip(*found, strict=True)))

    def dominant(self, pixels: Tensor) -> Tensor:
        """Return the mean colour ``(N, C)`` of the largest of an image's clusters of colours."""
        colours = pixels.flatten(2).mT
        centres, cluster = k_means(colours, self.settings.colours, self.draws.expand(len(pixels), -1))
        size = torch.nn.functional.one_hot(cluster, self.settings.colours).sum(1)
        return centres[torch.arange(len(pixels), device=pixels.device), size.argmax(1)]

    def inside(self, place: Tensor) -> Tensor:
        """Return which pixels ``bool (N, 1, H, W)`` a blocker at ``(N, 2)`` covers."""
        rows, columns = (torch.arange(side, device=place.device) for side in self.clean.shape[2:])
        down, right = rows - place[:, :1], columns - place[:, 1:]
        size = self.settings.blocker_size
        vertical, horizontal = ((each >= 0) & (each < size) for each in (down, right))
        return (vertical.unsqueeze(2) & horizontal.unsqueeze(1)).unsqueeze(1)

    def block(self, pixels: Tensor, colours: Tensor, place: Tensor) -> Tensor:
        """Return inputs with the blocker at their places."""
        return torch.where(self.inside(place), colours[:, :, None, None], pixels)

    def _find(self, pixels: Tensor) -> Found:
        label, colours = self.model(pixels).argmax(1), self.dominant(pixels)
        found = Found(label, *self._try(pixels, label, colours, self.known))
        rest = (found.share <= self.threshold).nonzero().squeeze(1)
        if len(rest):
            share, place = self._try(pixels[rest], label[rest], colours[rest], self.places)
            better = share >= found.share[rest]
            found.share[rest] = torch.where(better, share, found.share[rest])
            found.place[rest] = torch.where(better.unsqueeze(1), place, found.place[rest])
        return found

    def _try(self, pixels: Tensor, label: Tensor, colours: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
        """Block every place of every input, and confirm those at which the label changes."""
        shares = torch.zeros(len(pixels), max(len(places), 1), device=pixels.device)
        if not len(places):
            return shares[:, 0], torch.zeros_like(label).unsqueeze(1).repeat(1, 2)
        pairs = torch.cartesian_prod(*(torch.arange(count, device=pixels.device) for count in shares.shape))
        size = inference_batch(pixels.device)
        changed = [
            self.model(self.block(pixels[image], colours[image], places[place])).argmax(1) != label[image]
            for image, place in (part.unbind(1) for part in pairs.split(size))
        ]
        image, place = pairs[torch.cat(changed)].unbind(1)
        shares[image, place] = self._confirm(pixels, label, image, places[place])
        return shares.amax(1), places[shares.argmax(1)]

    def _confirm(self, pixels: Tensor, label: Tensor, image: Tensor, place: Tensor) -> Tensor:
        """Return the share ``(M,)`` of clean images that get the label of an input with what it shows at a place."""
        by_label = self.settings.confirmed_by == "label"
        asked = label[image, None] != self.clean_labels if by_label else torch.ones_like(label[image, None]) > 0
        asked = asked.expand(len(image), len(self.clean))
        hits = torch.zeros(len(image), device=pixels.device)
        for one, other in (part.unbind(1) for part in asked.nonzero().split(inference_batch(pixels.device))):
            pasted = torch.where(self.inside(place[one]), pixels[image[one]], self.clean[other])
            new = self.model(pasted).argmax(1)
            hit = new == label[image[one]] if by_label else new != self.clean_labels[other]
            hits.index_add_(0, one, hit.float())
        return hits / asked.sum(1).clamp_min(1)
