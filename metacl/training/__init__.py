"""Meta-training: the outer loop."""
