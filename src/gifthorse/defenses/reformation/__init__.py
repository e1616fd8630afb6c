"""Input reformation: change the input before the model sees it."""
