"""The outer loop: train, evaluate, save, resume, and the folder that a run leaves.
Imports build, cold_start, config, data, distributed, evaluation, metrics, models, report,
rollouts, step, storage, tasks and training.
"""
