"""The sides and the tables of scripts/bench.py."""
