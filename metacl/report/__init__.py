"""Results as tables, pictures and lines on the screen."""
