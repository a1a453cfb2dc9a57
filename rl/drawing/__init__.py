"""An agent as a graph, and its picture."""
