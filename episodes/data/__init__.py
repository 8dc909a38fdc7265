"""Data sets: readers, and the pools of images that they fill."""
