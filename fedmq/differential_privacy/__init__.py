"""Differential privacy without I/O: exact discrete noise, clipped rows, and the account of what is spent."""
