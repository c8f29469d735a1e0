"""Gradient Centralization of any torch optimizer by hooks."""
