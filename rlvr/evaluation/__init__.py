"""Ask a held-out set, sum up what came back, and set verdicts beside other graders.
Imports config, data, distributed, grading, metrics, report, rollouts, storage and tasks.
"""
