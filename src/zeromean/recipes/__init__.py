"""The papers' tables as recipes: a study file, the published numbers, and their comparison."""
