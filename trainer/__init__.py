"""A trainer: scores and trains on rows that never leave it, and pushes what it found until that is acknowledged."""
