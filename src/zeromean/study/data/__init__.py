"""Labeled images, decoded once into tensors; one reader a format."""
