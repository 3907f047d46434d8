"""Initialisation and residual-scaling schemes: what is done to a whole model before its training. One file each."""
