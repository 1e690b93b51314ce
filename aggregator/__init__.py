"""The aggregator: publishes rounds, collects results, keeps what it accepted, and makes the next round of it."""
