"""Reinforcement learning with state-space-model agents in JAX.

    import rlssm

    config = rlssm.RunConfig(
        env=rlssm.EnvConfig("RepeatFirstEasy"),
        agent=rlssm.PPOConfig(core=rlssm.S5Config(layers=2)),
        steps=500_000,
    )
    run = rlssm.fit(config, "runs/repeat-first")
    print(run.evaluate("last", episodes=100).episode_return.mean())

    actor = rlssm.Run("runs/repeat-first").actor("best")
    action = actor(obs, first=True)

Names load their modules when first used, so that `import rlssm` itself is quick.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rlssm.algorithms.awac import AWACConfig
    from rlssm.algorithms.bc import BCConfig
    from rlssm.algorithms.calql import CalQLConfig
    from rlssm.algorithms.cql import CQLConfig
    from rlssm.algorithms.csf import CSFConfig
    from rlssm.algorithms.darc import DARCConfig
    from rlssm.algorithms.diayn import DIAYNConfig
    from rlssm.algorithms.h2o import H2OConfig
    from rlssm.algorithms.hnpg import HNPGConfig
    from rlssm.algorithms.hyq import HyQConfig
    from rlssm.algorithms.iql import IQLConfig
    from rlssm.algorithms.lsd import LSDConfig
    from rlssm.algorithms.meta_ppo import MetaPPOConfig
    from rlssm.algorithms.metra import METRAConfig
    from rlssm.algorithms.moorl import MOORLConfig
    from rlssm.algorithms.ppo import PPOConfig
    from rlssm.algorithms.rebrac import ReBRACConfig
    from rlssm.algorithms.rlpd import RLPDConfig
    from rlssm.algorithms.sac import SACConfig
    from rlssm.algorithms.td3bc import TD3BCConfig
    from rlssm.algorithms.trpo import TRPOConfig
    from rlssm.data.mixing import ExperienceConfig
    from rlssm.envs.registry import EnvConfig, SimulatorConfig, make
    from rlssm.errors import UserError
    from rlssm.evaluation.evaluate import evaluate
    from rlssm.nn.cores import (
        FFMConfig,
        GRUConfig,
        LinearAttentionConfig,
        LRUConfig,
        LSTMConfig,
        MambaConfig,
        MinGRUConfig,
        NoneConfig,
        S4DConfig,
        S5AttentionConfig,
        S5Config,
        TransformerConfig,
    )
    from rlssm.nn.mlp import MLPConfig
    from rlssm.nn.torso import TorsoConfig
    from rlssm.train.actor import Actor
    from rlssm.train.config import RunConfig
    from rlssm.train.loop import fit
    from rlssm.train.run import Run

_HOMES = {
    "AWACConfig": "rlssm.algorithms.awac",
    "Actor": "rlssm.train.actor",
    "BCConfig": "rlssm.algorithms.bc",
    "CQLConfig": "rlssm.algorithms.cql",
    "CSFConfig": "rlssm.algorithms.csf",
    "CalQLConfig": "rlssm.algorithms.calql",
    "DARCConfig": "rlssm.algorithms.darc",
    "DIAYNConfig": "rlssm.algorithms.diayn",
    "EnvConfig": "rlssm.envs.registry",
    "ExperienceConfig": "rlssm.data.mixing",
    "FFMConfig": "rlssm.nn.cores",
    "GRUConfig": "rlssm.nn.cores",
    "H2OConfig": "rlssm.algorithms.h2o",
    "HNPGConfig": "rlssm.algorithms.hnpg",
    "HyQConfig": "rlssm.algorithms.hyq",
    "IQLConfig": "rlssm.algorithms.iql",
    "LRUConfig": "rlssm.nn.cores",
    "LSDConfig": "rlssm.algorithms.lsd",
    "LSTMConfig": "rlssm.nn.cores",
    "LinearAttentionConfig": "rlssm.nn.cores",
    "METRAConfig": "rlssm.algorithms.metra",
    "MLPConfig": "rlssm.nn.mlp",
    "MOORLConfig": "rlssm.algorithms.moorl",
    "MambaConfig": "rlssm.nn.cores",
    "MetaPPOConfig": "rlssm.algorithms.meta_ppo",
    "MinGRUConfig": "rlssm.nn.cores",
    "NoneConfig": "rlssm.nn.cores",
    "PPOConfig": "rlssm.algorithms.ppo",
    "RLPDConfig": "rlssm.algorithms.rlpd",
    "ReBRACConfig": "rlssm.algorithms.rebrac",
    "Run": "rlssm.train.run",
    "RunConfig": "rlssm.train.config",
    "S4DConfig": "rlssm.nn.cores",
    "S5AttentionConfig": "rlssm.nn.cores",
    "S5Config": "rlssm.nn.cores",
    "SACConfig": "rlssm.algorithms.sac",
    "SimulatorConfig": "rlssm.envs.registry",
    "TD3BCConfig": "rlssm.algorithms.td3bc",
    "TRPOConfig": "rlssm.algorithms.trpo",
    "TorsoConfig": "rlssm.nn.torso",
    "TransformerConfig": "rlssm.nn.cores",
    "UserError": "rlssm.errors",
    "evaluate": "rlssm.evaluation.evaluate",
    "fit": "rlssm.train.loop",
    "make": "rlssm.envs.registry",
}

__all__ = [
    "AWACConfig",
    "Actor",
    "BCConfig",
    "CQLConfig",
    "CSFConfig",
    "CalQLConfig",
    "DARCConfig",
    "DIAYNConfig",
    "EnvConfig",
    "ExperienceConfig",
    "FFMConfig",
    "GRUConfig",
    "H2OConfig",
    "HNPGConfig",
    "HyQConfig",
    "IQLConfig",
    "LRUConfig",
    "LSDConfig",
    "LSTMConfig",
    "LinearAttentionConfig",
    "METRAConfig",
    "MLPConfig",
    "MOORLConfig",
    "MambaConfig",
    "MetaPPOConfig",
    "MinGRUConfig",
    "NoneConfig",
    "PPOConfig",
    "RLPDConfig",
    "ReBRACConfig",
    "Run",
    "RunConfig",
    "S4DConfig",
    "S5AttentionConfig",
    "S5Config",
    "SACConfig",
    "SimulatorConfig",
    "TD3BCConfig",
    "TRPOConfig",
    "TorsoConfig",
    "TransformerConfig",
    "UserError",
    "evaluate",
    "fit",
    "make",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'rlssm' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
