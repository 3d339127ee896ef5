"""A trained network to numbers and pictures."""
