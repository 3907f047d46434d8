"""Quality and cost of models, measured: nothing here knows what a candidate or a method is. `compare` is the way in."""
