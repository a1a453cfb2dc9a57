"""Tasks of our own: cost functions, staircases, goals, and those whose optimum is known."""
