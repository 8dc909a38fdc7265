"""Learners without meta-training: networks that are trained on the stream alone."""
