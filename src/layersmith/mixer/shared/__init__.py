"""What several operators of the family share; nothing here is an operator."""
