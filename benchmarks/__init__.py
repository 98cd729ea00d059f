"""Measures this project beside its peers: `python -m benchmarks.compare`, `python -m benchmarks.scaling`."""
