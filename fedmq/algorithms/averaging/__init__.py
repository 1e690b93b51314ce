"""Federated averaging: every trainer trains the model on its own rows; the mean is the next model."""
