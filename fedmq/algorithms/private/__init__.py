"""Private runs: questions whose rows count a bounded amount, answered with noise."""
