"""Attacks that need a hand in training: its loss, or what is done between its epochs."""
