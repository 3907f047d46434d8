"""What several schemes share; nothing here is a scheme."""
