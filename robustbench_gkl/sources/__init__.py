"""What a MODEL argument names: a run or a model from outside, found without torch and loaded with it."""
