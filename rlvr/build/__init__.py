"""From a recipe to the parts of a run: the one room that reads configuration.
Imports every room that a run has parts of.
"""
