"""What attacks share: where a trigger lies and what it shows, the stages of poisoning, mixing, and pattern search."""
