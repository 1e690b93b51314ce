"""Evaluation of candidates: summed losses and correct rows, an additive query for algorithms of your own."""
