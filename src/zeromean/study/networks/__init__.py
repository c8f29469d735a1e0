"""The networks that a comparison can train; one architecture a file."""
