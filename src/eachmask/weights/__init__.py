"""Weights: where they are, what they may be used for, and how foreign ones are read."""
