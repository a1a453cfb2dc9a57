"""The library's own tasks: cost functions, staircases, goals, and tasks with a known optimum."""
