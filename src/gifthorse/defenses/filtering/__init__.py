"""Input filtering: score inputs, flag the suspicious ones."""
