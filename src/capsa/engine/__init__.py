"""State and rules: containers, their life cycle, and what survives a restart."""
