"""Translates the weights of other libraries' networks to our names."""
