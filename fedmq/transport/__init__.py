"""How messages travel: the link interface and its ZeroMQ implementation."""
