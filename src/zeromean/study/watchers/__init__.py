"""Who is told of epochs and runs as they end: the terminal, TensorBoard, or nobody."""
