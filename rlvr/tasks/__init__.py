"""Tasks: where problems come from (kind "data") and what is true about a response to one (kind "task")."""
