"""What detectors share that recover triggers: one engine for many triggers as one batch, reference models, verdicts."""
