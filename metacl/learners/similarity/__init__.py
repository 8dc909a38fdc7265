"""Learners that answer by similarity to labelled examples."""
