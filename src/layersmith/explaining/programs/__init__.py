"""What the construction `program` is made of: a network of discrete choices, its training, and its source text."""
