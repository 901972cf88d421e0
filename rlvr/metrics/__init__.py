"""Figures that merge exactly, the clock of the stages, statistics of evaluations, signs in texts.
Imports distributed.
"""
