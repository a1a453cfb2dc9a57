"""Batched environments that give the same numbers as gymnasium's, and envpool's."""
