"""What is learned from rewarded groups: advantages, losses, optimiser steps.
Imports distributed, metrics and models.
"""
