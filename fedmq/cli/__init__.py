"""The command line: the command `fedmq`, lazy groups, shared options and settings files."""
