"""What each line of each file of a run holds, with its writer and its reader.
Imports no room.
"""
