"""A recipe: its sections, how YAML files are laid over one another, and every check that needs no
model.
Imports no room.
"""
