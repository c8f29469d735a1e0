"""Benchmark of optimizer steps with and without centering, for ``zeromean bench`` and scripts."""
