"""Readers of rows."""
