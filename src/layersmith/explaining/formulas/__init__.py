"""What the tool `formula` is made of: the engine that looks for equations, and the choice among them."""
