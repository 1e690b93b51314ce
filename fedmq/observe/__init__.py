"""What observers see of a run: events, the run state, the event log, metrics and terminal views."""
