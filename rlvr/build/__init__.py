"""From a recipe to the parts of a run: the one room that reads configuration.
Imports cold_start, config, data, distributed, engines, evaluation, models, rewards, rollouts,
step, tasks and training.
"""
