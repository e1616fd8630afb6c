"""Several defenses as one."""
