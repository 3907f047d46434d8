"""What the survey `bounds` is made of: lines around activations, and bounds through chains of layers."""
