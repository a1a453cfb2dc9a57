"""Models trained against costs that nobody can differentiate."""
