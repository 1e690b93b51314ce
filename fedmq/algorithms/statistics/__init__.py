"""Statistics of the columns of all rows: counts, means, deviations, histograms, quantiles; exact sums."""
