"""Run directories: writing, reading, ranking and comparing them."""
