"""What constructions share: how weights are written down, how sublayers are stacked, how drawn data look."""
