"""Whether two written answers mean the same.
Imports no room.
"""
