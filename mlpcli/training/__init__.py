"""Arrays to trained parameters: batches, update rules, the loop."""
