"""What a report is made of."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from gifthorse.core.record import Record


@dataclass(frozen=True, eq=False)
class ReportCell:
    """A record and the arrays behind it; without arrays, the report shows the numbers alone."""

    record: Record
    evidence: Mapping[str, np.ndarray] = field(default_factory=dict)
