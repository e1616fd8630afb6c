"""What a defender holds. The type of the view is the threat model; none has a path to the truth."""

from dataclasses import dataclass

import torch

from gifthorse.core.classifier import Classifier
from gifthorse.core.images import Images


@dataclass(frozen=True, eq=False)
class DataFreeView:
    """The model alone: an independent copy, in evaluation mode."""

    model: Classifier

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.model.device


@dataclass(frozen=True, eq=False)
class ModelView(DataFreeView):
    """The model and some clean labelled images that it was not trained on."""

    clean: Images


View = DataFreeView
