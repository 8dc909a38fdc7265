"""Networks that make a vector of an image, with weights that stay as they are."""
