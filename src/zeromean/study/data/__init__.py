"""Readers of data sets: one module per format, all of which return a `Dataset`."""
