"""Which problems are asked, in which order and how, and whether they can be trusted.
Imports metrics, storage and tasks.
"""
