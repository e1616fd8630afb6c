"""Manifold projection: show the model what an autoencoder of clean images makes of the input.

Paper: Meng and Chen 2017 (MagNet), arXiv:1705.09064, section 4.3; TrojanZoo section 4.3 and Table 21 (structure [32],
    noise of standard deviation 0.1 while training). Li et al. 2020, arXiv:2004.04692, appendix B (``auto_encoder``: a
    convolutional autoencoder, 100 epochs, learning rate 0.001, batches of 16); Salem et al. 2022 (dynamic backdoors),
    arXiv:2003.03675, section 4.9.
Differs: the autoencoder sees the defender's images alone, not a training set. What TrojanZoo leaves open (Adam at
    0.001, 100 epochs of batches of 256) is MagNet's; TrojanZoo speaks of an autoencoder that downsamples, which the
    structure [32] does not. ``auto_encoder`` has the layers, Adam and the cross-entropy of the code that Li et al.
    name, and no noise.
"""

from typing import Annotated, Literal

from pydantic import Field
from torch import Tensor

from gifthorse.core.defense import CleanImagesDefense
from gifthorse.core.evasion import Attacker, Evasion, check_reform
from gifthorse.core.outcomes import CleanModel
from gifthorse.core.views import Materials, ModelView
from gifthorse.training.autoencoder import Autoencoding


class Projection(CleanImagesDefense[ModelView], Autoencoding):
    """Puts an autoencoder of the defender's clean images in front of the model."""

    family = "reformation"
    view = ModelView
    black_box = True
    offers = "reform"

    def skip(self, view: ModelView) -> str | None:
        """Ask for images to train the autoencoder on."""
        return None if len(view.clean) else "needs clean images to train an autoencoder on; there are none"

    def prepare(self, materials: Materials, seed: int) -> dict[str, Tensor]:
        """Train the autoencoder, which depends on the images alone."""
        return self.train_autoencoder(materials.clean, seed)

    def evasion(self, attacker: Attacker, seed: int) -> Evasion:  # noqa: ARG002
        """Put an autoencoder of the attacker's own images in front (TrojanZoo, section 6.3: a surrogate)."""
        reform = self.autoencoder(attacker.prepared, attacker.images.shape[0], attacker.images.device)
        check_reform(attacker, reform, self.name)
        return Evasion(reform=reform)

    def defend(self, view: ModelView, seed: int) -> CleanModel:  # noqa: ARG002
        """Put the autoencoder in front of the model."""
        reform = self.autoencoder(view.prepared, view.shape[0], view.device)
        return CleanModel(view.model.behind(reform), reform)


class ManifoldProjection(Projection):
    """Replaces every input by its reconstruction, from an autoencoder that was trained to take noise away."""

    name = "manifold_projection"
    aliases = ("mp", "magnet")
    paper = "Meng and Chen 2017, arXiv:1705.09064; TrojanZoo section 4.3"
    variants = ("manifold_projection[structure=[8,16],stride=2]",)


class AutoEncoder(Projection):
    """Replaces every input by its reconstruction, from an autoencoder with a bottleneck."""

    name = "auto_encoder"
    aliases = ("autoencoder",)
    paper = "Li et al. 2020, arXiv:2004.04692, appendix B"

    structure: tuple[Annotated[int, Field(ge=1)], ...] = Field(
        (12, 24, 48), min_length=1, description="channels of the encoder's layers; the decoder mirrors them"
    )
    stride: int = Field(2, ge=1, le=2, description="of every layer; 2 halves the size each time, which is a bottleneck")
    noise: float = Field(0.0, ge=0, description="standard deviation of Gaussian noise on the inputs while training")
    loss: Literal["squared", "cross_entropy"] = Field(
        "cross_entropy", description="between reconstruction and clean image"
    )
    batch_size: int = Field(16, ge=1, description="images per step")
