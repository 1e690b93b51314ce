"""Sums of which the aggregator learns the total only: Bonawitz et al. 2017, in the malicious setting.

Two machines without I/O, for one cohort and one question: `trainer` and `aggregator`. Decision 37 has the reasons.
"""
