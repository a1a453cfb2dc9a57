"""C as a differentiable loss for any PyTorch model with a black-box cost function."""
