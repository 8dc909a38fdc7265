"""Meta-trained learners with an inner loop of gradient steps."""
