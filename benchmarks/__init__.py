"""Speed in processor time, always as a ratio to a plain loop in the same process; `make bench` prints the table."""
