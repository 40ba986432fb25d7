"""Environments as pure functions: the contract, the families behind it, and wrappers."""

from rlssm.envs.base import Environment, Step, VectorEnvironment, Vectorized, VectorStep
from rlssm.envs.registry import EnvConfig, make, names

__all__ = [
    "EnvConfig",
    "Environment",
    "Step",
    "VectorEnvironment",
    "VectorStep",
    "Vectorized",
    "make",
    "names",
]
