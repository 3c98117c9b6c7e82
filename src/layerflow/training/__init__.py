"""Training: recipe, batches, loop."""
