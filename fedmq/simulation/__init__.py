"""A federation in one process: the services on an in-memory network and on virtual time."""
