"""Changes to networks and optimizers that methods make besides zeromean's own."""
