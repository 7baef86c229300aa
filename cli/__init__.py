"""Flags become options; what a program ends with."""
