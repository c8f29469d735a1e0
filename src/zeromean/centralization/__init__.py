"""Gradient Centralization of any torch optimizer, by hooks: ``centralize`` and what it rests on."""
