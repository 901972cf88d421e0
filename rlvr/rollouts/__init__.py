"""From prompts to rewarded groups.
Imports data, distributed, engines, metrics, rewards and tasks.
"""
