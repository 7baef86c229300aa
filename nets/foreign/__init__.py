"""Weights of other people's networks under our names."""
