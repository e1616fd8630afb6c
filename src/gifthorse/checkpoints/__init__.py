"""Reading checkpoints that someone handed you. A file is hostile until proven otherwise: nothing in it is ever run."""
