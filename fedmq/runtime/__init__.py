"""What every service runs on: the loop, clocks, files, locks and systemd notification."""
