"""The networks of a study, by their names."""
