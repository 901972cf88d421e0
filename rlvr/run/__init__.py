"""The outer loop: train, evaluate, save, resume, and the folder that a run leaves.
Imports build and what it builds, report and storage.
"""
