"""Attacks that need the model alone: they change its weights or its structure."""
