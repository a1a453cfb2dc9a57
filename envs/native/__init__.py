"""Batched environments: native ones, bit-equal to gymnasium's, and those of envpool."""
