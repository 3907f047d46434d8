"""What several tasks share: checked settings, packed strings, yardstick predictors, random fields."""
