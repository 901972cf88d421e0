"""Sets of problems and the verifiers of their answers; one file adds one.
Imports grading.
"""
