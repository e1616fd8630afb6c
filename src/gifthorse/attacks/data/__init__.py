"""Attacks that need the training set alone: what they poison can be exported."""
