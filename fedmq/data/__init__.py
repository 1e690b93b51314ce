"""Rows: how a trainer's own files, folders and functions become arrays."""
