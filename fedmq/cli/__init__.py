"""The command line: the command `fedmq`, its groups, shared options and settings files."""
