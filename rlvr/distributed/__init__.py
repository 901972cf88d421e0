"""Processes that train together: their collectives and how they are started.
Imports no room.
"""
