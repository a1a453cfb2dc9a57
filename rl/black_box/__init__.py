"""C as a loss for any PyTorch graph: a black box's calls, its outputs and what was evaluated."""
