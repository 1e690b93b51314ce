"""A trainer computes on its own rows and sends the results until they are acknowledged."""
