"""Measures: numbers from tensors, and the judge that compares a defense's answer with the truth."""
