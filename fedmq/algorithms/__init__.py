"""How a federation learns: the contract, and one folder for each algorithm."""
