"""One engine that optimises many triggers as one batch."""
