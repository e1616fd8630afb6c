"""Runs cells of the grid and keeps what they give."""
