"""Ridge regression and classification: one sum of products gives the model of all rows."""
