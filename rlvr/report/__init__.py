"""Pages and tables from the files of runs; no run is needed to make them.
Imports metrics and storage.
"""
