"""Learners whose state is statistics of the stream, exact in any order."""
