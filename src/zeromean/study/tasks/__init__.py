"""Tasks in memory: they turn a method, an optimizer and a seed into metrics."""
