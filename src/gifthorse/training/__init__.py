"""Training: one loop, its augmentation, its precision, and how poison enters it."""
