"""MESA: a class is attacked if what a generator makes of noise are triggers that send other images to it.

Paper: Qiao, Yang, Li 2019, NeurIPS, arXiv:1910.03749, sections 3 to 5 (max-entropy staircase approximator); the
    defense's first step, which looks for the attacked class.
Differs: all classes are modelled side by side, at the largest β of the authors' code, which asks most of a trigger, and
    the size of the triggers is given (:mod:`gifthorse.inversion.trigger_distribution`). The paper tells an attacked
    class by success rates of "about 90 %" where others have next to none, and prints no threshold: here the class that
    its triggers reach most is suspect if they do on more than half of the held-out images, and it is one class at most.
    A distribution is no trigger: what is shown of each class is the one of some drawn triggers, at the one of some
    places, that sends most images to it; beside the published rate the verdict reads out how often the best of these
    works. A backdoor that asks for its trigger at one place is hit by few random ones, and not flagged.
"""

import torch
from pydantic import Field
from torch import Tensor

from gifthorse.core.classifier import Classifier, predict
from gifthorse.core.images import Images
from gifthorse.core.outcomes import ModelVerdict, RecoveredTriggers
from gifthorse.core.seeds import derive, generator
from gifthorse.core.views import ModelView
from gifthorse.inversion.engine import reached
from gifthorse.inversion.inspector import Inspector, hold_out, too_few_or_other, with_success
from gifthorse.inversion.trigger_distribution import TriggerModelling, paste, random_place

TRIED = 64
"""Drawn triggers of a class, each at a random place, of which the most successful is shown."""
TRIED_ON = 32
"""Images that it has to be most successful on."""


class Mesa(Inspector, TriggerModelling):
    """Models the distribution of every class's triggers and flags a class that they reach."""

    name = "mesa"
    aliases = ("max_entropy_staircase_approximator",)
    paper = "Qiao et al. 2019, NeurIPS, arXiv:1910.03749"

    beta: float = Field(0.9, gt=0, le=1, description="β: confidence up to which triggers are rewarded")

    def skip(self, view: ModelView) -> str | None:
        """Refuse what no trigger fits; no index is made of the classes' scores, so that two are enough."""
        return self.unfit(view) or too_few_or_other(view)

    def defend(self, view: ModelView, seed: int) -> ModelVerdict:
        """Model all classes' triggers; the score of a class is the share of held-out images that these send to it."""
        images, held_out = hold_out(view.clean, seed)
        triggers, rates = self.search(view.model, images, held_out, self.beta, derive(seed, self.name))
        shown = with_success(view.model, most_successful(view.model, triggers, images, seed), held_out)
        assert shown.success is not None
        highest, label = float(rates.max()), int(rates.argmax())
        suspect = label if highest > self.success else None
        return ModelVerdict(rates, suspect, shown, {"placed": float(shown.success.max())}, decisive=highest)


def most_successful(model: Classifier, triggers: Tensor, images: Images, seed: int) -> RecoveredTriggers:
    """Return one of each class's ``triggers (K, P, C, size, size)``, where it sends most images of others to the class.

    These are images that the triggers were modelled on, so that none is held out for the choice.
    """
    masks, patterns, random = [], [], generator(seed, "shown")
    black = torch.zeros(images.shape, device=images.device)
    for label, drawn in enumerate(triggers):
        others = images.take(images.labels != label).take(slice(TRIED_ON)).floats()
        wanted = torch.tensor(label, device=images.device)
        tries = [(trigger, random_place(images.shape, drawn.shape[-1], random)) for trigger in drawn[:TRIED]]
        hits = torch.zeros(len(tries), device=images.device)
        for turn, (trigger, place) in enumerate(tries if len(others) else []):
            hits[turn] = reached(predict(model, paste(others, trigger, place)), wanted).sum()
        trigger, place = tries[int(hits.argmax())]
        masks.append(paste(black[:1], torch.ones_like(trigger[:1]), place))
        patterns.append(paste(black, trigger, place))
    return RecoveredTriggers(torch.stack(masks), torch.stack(patterns))
