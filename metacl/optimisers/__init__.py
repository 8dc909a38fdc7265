"""Optimisers with torch's interface, which any network can be trained with."""
