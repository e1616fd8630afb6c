"""Benign reference models that a defender trains alone, to know how large triggers of a benign model are.

Some classes of a data set are easier to reach than others, in every model. An index over the classes of one model
takes the easiest for an outlier; against the same class of benign models it is none.
"""

import math

from torch import Tensor, nn

from gifthorse.core.classifier import Classifier
from gifthorse.core.images import Images
from gifthorse.core.recipe import StandardRecipe
from gifthorse.core.seeds import derive, isolated
from gifthorse.training.loop import fit

STEPS = 400
"""Batches that a reference model passes, the incomplete last one of an epoch counted, which training leaves out.

On a few hundred images that is 250 to 400 steps, and the loss is close to zero by then.
"""


def reference_models(model: Classifier, images: Images, count: int, seed: int) -> list[Classifier]:
    """Return ``count`` models of the same structure, initialised anew and trained on ``images`` alone.

    Layers are initialised as their own ``reset_parameters`` does. The defender knows nothing of the data set's
    symmetries, so images are shifted by a pixel and not mirrored.
    """
    recipe = StandardRecipe(batch_size=min(64, len(images)), shift=1, flip=False, schedule="one_cycle")
    per_epoch = math.ceil(len(images) / recipe.batch_size)
    recipe = recipe.model_copy(update={"epochs": math.ceil(STEPS / per_epoch)})
    references = []
    for number in range(count):
        fresh = model.clone()
        with isolated(seed, "reference", number):
            fresh.apply(_reset)
        fit(fresh, images, recipe, derive(seed, "reference", number))
        references.append(fresh.eval())
    return references


def against_references(norms: Tensor, references: Tensor) -> Tensor:
    """Return how far below those of reference models each class's log norm is, in standard deviations.

    ``norms (K,)`` are the model's, ``references (R, K)`` those of the reference models. The standard deviation is
    pooled over the classes: a handful of models says too little about each alone.
    """
    logs = references.clamp_min(1e-6).log()
    spread = logs.var(0, unbiased=True).mean().sqrt().clamp_min(1e-6)
    return (logs.mean(0) - norms.clamp_min(1e-6).log()) / spread


def _reset(module: nn.Module) -> None:
    reset = getattr(module, "reset_parameters", None)
    if callable(reset):
        reset()
