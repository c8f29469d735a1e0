"""Changes to networks and optimizers of methods, other than those of zeromean itself."""
