"""Gradient-free search: formulas, batched policies, and the rollout of candidates."""
