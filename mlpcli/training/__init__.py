"""Training: batches, the step, update rules and the loop over epochs."""
