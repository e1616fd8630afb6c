"""The ways in which a trigger may be shown when a backdoor is judged, each a file's, listed here."""

from gifthorse.core.configuration import Catalogue
from gifthorse.core.stamping import Stamping
from gifthorse.stampings.amplified import Amplified
from gifthorse.stampings.photographed import Photographed
from gifthorse.stampings.recoloured import Recoloured
from gifthorse.stampings.requeried import Requeried
from gifthorse.stampings.shifted import Shifted
from gifthorse.stampings.transformed import Flipped, Rotated, Shrunk, Transformed

STAMPS: Catalogue[Stamping] = Catalogue(
    "stamp", [Shifted, Recoloured, Amplified, Flipped, Shrunk, Rotated, Transformed, Photographed, Requeried]
)
