"""The kinds of arrays that an analysis leaves to be drawn. Imports no torch."""

DRAWN = {"pictures": 2, "points": 3, "against": 5, "profile": 3, "distribution": 3, "matrix": 2}
"""The kinds of evidence, and of how many parts the name of each consists: see ``Findings`` in ``core/analysis.py``."""

LAYERS = "profile"
"""The kind whose names may have one part more, before the last: the names of the layers, between commas."""
