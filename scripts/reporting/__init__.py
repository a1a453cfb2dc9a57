"""Rows, statistics and pictures of results."""
