"""Symbolic world models: what a world is made of, laws about it, and how likely they make it."""
