"""One file per algorithm, each with the same public names.

A module here offers `<Name>Config`, `<Name>State`, and

    networks(config, spec) -> linen module with `initial_carry(batch)`
    init(config, spec, key) -> state
    act(config, spec, params, inputs, reset, carry, key, *, greedy) -> (action, carry, extras)
    update(config, spec, state, batch) -> (state, metrics)
    batch_spec(config) -> what the loop must supply

`state.params` is the part of the state that acting needs: what a best checkpoint or an exported
policy holds. `state.hyper` holds the scalars a sweep may replace, by name.
"""

from types import ModuleType

from rlssm.algorithms import (
    awac,
    bc,
    calql,
    cql,
    csf,
    darc,
    diayn,
    h2o,
    hnpg,
    hyq,
    iql,
    lsd,
    meta_ppo,
    metra,
    moorl,
    ppo,
    rebrac,
    rlpd,
    sac,
    td3bc,
    trpo,
)
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

# The union of the configurations in `ALGORITHMS`.
AgentConfig = (
    AWACConfig
    | BCConfig
    | CalQLConfig
    | CQLConfig
    | CSFConfig
    | DARCConfig
    | DIAYNConfig
    | H2OConfig
    | HNPGConfig
    | HyQConfig
    | IQLConfig
    | LSDConfig
    | MetaPPOConfig
    | MOORLConfig
    | METRAConfig
    | PPOConfig
    | ReBRACConfig
    | RLPDConfig
    | SACConfig
    | TD3BCConfig
    | TRPOConfig
)
ALGORITHMS: dict[str, ModuleType] = {
    "awac": awac,
    "bc": bc,
    "calql": calql,
    "cql": cql,
    "csf": csf,
    "darc": darc,
    "diayn": diayn,
    "h2o": h2o,
    "hnpg": hnpg,
    "hyq": hyq,
    "iql": iql,
    "lsd": lsd,
    "meta-ppo": meta_ppo,
    "moorl": moorl,
    "metra": metra,
    "ppo": ppo,
    "rebrac": rebrac,
    "rlpd": rlpd,
    "sac": sac,
    "td3bc": td3bc,
    "trpo": trpo,
}
