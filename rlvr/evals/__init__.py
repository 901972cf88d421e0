"""Held-out evaluation: benchmarks are rows, scoring reads only verdicts."""
