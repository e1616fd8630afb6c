"""Model sanitization: hand back a cleaner model."""
