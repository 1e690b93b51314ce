"""Deployment: the demo on one machine, hosts over SSH, systemd units, and checks of a machine.

It starts the services through the same commands that a user types.
"""
