"""Controlled comparisons of training with and without GC."""
