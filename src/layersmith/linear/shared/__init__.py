"""What several linear maps share."""
