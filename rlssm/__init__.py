"""Reinforcement learning with state-space-model agents in JAX."""
