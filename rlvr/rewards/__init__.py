"""What a verified answer is worth to a recipe.
Imports grading and metrics.
"""
