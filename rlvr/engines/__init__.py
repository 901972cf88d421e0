"""Generate text with keys that decide every token, and check that new weights arrived.
Imports kernels and models.
"""
