"""Networks: perceptrons, C and its heads, actors and their distributions, and their NumPy forward."""
