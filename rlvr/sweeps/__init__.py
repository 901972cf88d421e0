"""Experiments with several arms and seeds: their plan, their processes, their table.
Imports build, config, distributed, metrics, models, report and storage.
"""
