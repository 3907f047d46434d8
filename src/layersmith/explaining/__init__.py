"""Replace a sublayer by something readable, and measure how faithful it is in place; `pipeline.py` is the way there."""
