"""Evolution strategies: one number for each pair of candidates goes up, and the directions are drawn from a seed."""
