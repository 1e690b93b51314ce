"""Puts fedmq onto machines: the systemd units that ship with it, and the demo that runs everything on one machine.

Knows nothing of rounds, models or fitness: it starts the same commands that a person would.
"""
