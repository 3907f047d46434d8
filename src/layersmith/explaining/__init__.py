"""Replace a sublayer by something readable, and measure how faithful it is in place."""
