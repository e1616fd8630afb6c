"""What looks inside of a model whose truth is known, one analysis per file, listed here."""

from gifthorse.analyses.nsr import Nsr
from gifthorse.core.analysis import Analysis
from gifthorse.core.configuration import Catalogue

ANALYSES: Catalogue[Analysis] = Catalogue("analysis", [Nsr])
