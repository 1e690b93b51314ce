"""Sinks: observers that write the rounds of live runs to other tools."""
