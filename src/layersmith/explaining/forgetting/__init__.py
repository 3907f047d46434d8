"""What the survey `unlearning` is made of: made-up facts, how they are taught, and the updates that remove some."""
