"""Gradient-boosted trees from sums of histograms: the trees of all rows together, exact."""
