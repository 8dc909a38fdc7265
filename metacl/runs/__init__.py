"""Run folders: configuration, checkpoints, environment."""
