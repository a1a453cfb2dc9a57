"""Diagrams of agents: an agent as a graph, and a picture of the graph."""
