"""Transformations of whole images, listed here: what defenses put before a model and judges before a verdict."""

from gifthorse.core.configuration import Catalogue
from gifthorse.core.transformation import Transformation
from gifthorse.transformations.appearance import Brightness, Contrast, GaussianNoise, Hue, Saturation
from gifthorse.transformations.spatial import Crop, Flip, Resize, ShrinkPad

TRANSFORMATIONS: Catalogue[Transformation] = Catalogue(
    "transformation", [Flip, ShrinkPad, Resize, Crop, GaussianNoise, Hue, Contrast, Brightness, Saturation]
)
