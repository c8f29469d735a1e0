"""Training programs of the recipes; each runs on its own and does not import zeromean."""
