"""The passport of an evaluation: checks of the model before the attacks, and of what they found after them."""
