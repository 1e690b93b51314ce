"""Tables: the columns of people's files by name, their schema, and the way from cells to a model's features."""
