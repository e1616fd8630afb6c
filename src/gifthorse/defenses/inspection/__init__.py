"""Model inspection: score the classes of a model."""
