"""Types that every stage shares; imports nothing else of gifthorse."""
