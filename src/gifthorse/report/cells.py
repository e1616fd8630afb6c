"""What a report is made of."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from gifthorse.core.record import Record, Review
from gifthorse.core.scan import Scan


@dataclass(frozen=True, eq=False)
class ReportCell:
    """A record, and what reads the arrays behind it; without arrays, the report shows the numbers alone.

    They are read when the cell is drawn and dropped after that, so that those of one cell are in memory at a time.
    """

    record: Record
    evidence: Callable[[], Mapping[str, np.ndarray]] = dict
    review: Review | None = None


@dataclass(frozen=True, eq=False)
class ReportScan:
    """A scan of a delivered model, and what reads the arrays behind it."""

    scan: Scan
    evidence: Callable[[], Mapping[str, np.ndarray]] = dict
