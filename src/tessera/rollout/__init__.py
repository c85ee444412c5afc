"""Sampling completions, grading them, and restarting from inside earlier ones."""
