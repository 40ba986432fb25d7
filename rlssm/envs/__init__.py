"""Environments as pure functions: the contract, the families behind it, and wrappers."""

from rlssm.envs.base import Environment, Step, VectorEnvironment, Vectorized, VectorStep
from rlssm.envs.perturbed import DynamicsConfig, Perturbed, PerturbedParams, Scales
from rlssm.envs.registry import EnvConfig, make, names

__all__ = [
    "DynamicsConfig",
    "EnvConfig",
    "Environment",
    "Perturbed",
    "PerturbedParams",
    "Scales",
    "Step",
    "VectorEnvironment",
    "VectorStep",
    "Vectorized",
    "make",
    "names",
]
