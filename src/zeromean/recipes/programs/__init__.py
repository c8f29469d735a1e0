"""Training programs of the recipes; apart from `training`, they use nothing of zeromean."""
