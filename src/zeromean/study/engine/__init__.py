"""The engine: it schedules the runs of a study, executes them, and stores their results."""
