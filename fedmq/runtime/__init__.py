"""What every service runs on: loop, clocks, files, locks and systemd notifications."""
