"""Methods for gifthorse, one toy of each kind, each in one file."""
