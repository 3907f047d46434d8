"""What `formula` and `slime` are made of: engines that look for equations, a choice among them, the fit to a point."""
