"""Train mechanisms from scratch under one budget and rank them."""
