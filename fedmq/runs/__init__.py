"""A run on disk and by remote control: its store, report, checkpoints and control commands."""
