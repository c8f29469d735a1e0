"""From a task as it is declared to a problem in memory; one kind of task a file."""
