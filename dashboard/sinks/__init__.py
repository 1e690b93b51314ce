"""Sinks: what happens in runs, written to where other tools look for it; each is an observer, and slows no round."""
