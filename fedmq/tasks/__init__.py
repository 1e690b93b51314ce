"""Tasks: what to train, as one value that can travel, and the built-in tasks."""
