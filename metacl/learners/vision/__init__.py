"""Learners on a pre-trained vision transformer, which take whole tasks."""
