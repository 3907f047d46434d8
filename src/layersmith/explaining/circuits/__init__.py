"""What the survey `circuit` is made of: prompt pairs, patching, the residual graph, attribution, pruning, curves."""
