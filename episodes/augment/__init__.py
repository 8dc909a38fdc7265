"""Augmentation of meta-training episodes."""
