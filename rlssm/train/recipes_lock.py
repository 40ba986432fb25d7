"""`lock/...`: combination locks played by an expert that errs now and then.

At each step of a lock of horizon H the expert takes the one-hot right action (in the dead state,
the one that state 0 would want), and with probability epsilon = 1/H one uniform on [0, 1]^10 in
its place, or any of a discrete lock's ten. These are right one time in ten, so that the lock opens
in (1 - 0.9/H)^H of the episodes, 0.37 to 0.40.
Source: Zhou et al. 2023 (arXiv 2311.08384), appendix, and their program.
"""

import math
from functools import partial
from importlib.metadata import version
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from rlssm.data.dataset import DatasetInfo, OfflineDataset, index_episodes
from rlssm.data.scores import Reference
from rlssm.envs import locks
from rlssm.envs.locks import ImageLock, Lock, LockState
from rlssm.types import Discrete, Key, Spec

IDS = locks.IDS
EPISODES, IMAGE_EPISODES = 50_000, 10_000  # by default; images are 2 kB each
REFERENCE_EPISODES = 1000
REFERENCE_SEED = 0  # of the references, which are the same whatever the seed of the data
RANDOM, BEST = 1.0, 0.0  # values of epsilon


class Played(NamedTuple):
    """Whole episodes, leaves `[N, H, ...]` but for the observations' `[N, H + 1, ...]`."""

    obs: Float[Array, "N H1 D"]
    action: Array
    reward: Float[Array, "N H"]
    terminated: Bool[Array, "N H"]


def text(name: str) -> str:
    """Return what the data of a lock are."""
    return f"an expert that acts at random one time in {locks.make(name).horizon}"


def default_steps(name: str) -> int:
    """Return the steps of a lock's dataset: 50,000 episodes, 10,000 with images."""
    lock = locks.make(name)
    return lock.horizon * (IMAGE_EPISODES if isinstance(lock, ImageLock) else EPISODES)


def build(name: str, steps: int, seed: int, progress: bool) -> OfflineDataset:
    """Return the data of a lock, named by its id: whole episodes, `steps` or more.

    All episodes are played at once, in seconds, so `progress` is not shown.
    """
    lock = locks.make(name)
    count = math.ceil(steps / lock.horizon)
    data = play(lock, jax.random.split(jax.random.key(seed), count), 1 / lock.horizon)
    data = jax.device_get(data)
    keys = jax.random.split(jax.random.key(REFERENCE_SEED), REFERENCE_EPISODES)
    low, high = (
        float(play(lock, keys, epsilon).reward.sum(1).mean()) for epsilon in (RANDOM, BEST)
    )
    episode, start = index_episodes([lock.horizon] * count)
    return OfflineDataset(
        obs=data.obs.reshape(-1, *data.obs.shape[2:]),
        action=data.action.reshape(-1, *data.action.shape[2:]),
        reward=data.reward.ravel(),
        terminated=data.terminated.ravel(),
        truncated=np.zeros(data.terminated.size, bool),
        episode=episode,
        start=start,
        extras={},
        info=_info(name, lock, Reference(low, high, _SOURCE), steps, seed),
    )


_SOURCE = (
    "mean returns of uniformly random actions and of the recipe's expert without errors, "
    f"{REFERENCE_EPISODES} episodes each"
)


_BOUNDS = ((-1.0,) * locks.ACTIONS, (1.0,) * locks.ACTIONS)


def _info(name: str, lock: Lock, reference: Reference, steps: int, seed: int) -> DatasetInfo:
    provenance = {
        "algorithm_name": "epsilon-greedy expert",
        "author": "rlssm",
        "description": f"{name} of rlssm, {text(name)}",
        "recipe": f"rlssm data make {name} --steps {steps} --seed {seed}",
        "versions": f"jax {version('jax')}",
    }
    return DatasetInfo(
        id=f"{name}-v0",
        spec=Spec(lock.spec.obs, lock.spec.action),
        action_bounds=None if isinstance(lock.spec.action, Discrete) else _BOUNDS,
        env=name,
        reference=reference,
        provenance=tuple(sorted(provenance.items())),
    )


@partial(jax.jit, static_argnums=0)
def play(lock: Lock, keys: Key, epsilon: float | Float[Array, ""]) -> Played:
    """Play an episode for each key."""
    params = lock.params

    def episode(key: Key) -> Played:
        reset_key, steps_key = jax.random.split(key)
        state, first = lock.reset(reset_key, params)

        def step(state: LockState, key: Key) -> tuple[LockState, Played]:
            act_key, step_key = jax.random.split(key)
            action = act(lock, state, act_key, epsilon)
            state, out = lock.step(step_key, state, action, params)
            return state, Played(out.obs, action, out.reward, out.terminated)

        _, played = jax.lax.scan(step, state, jax.random.split(steps_key, lock.horizon))
        return played._replace(obs=jnp.concatenate([first[None], played.obs]))

    return jax.vmap(episode)(keys)


def act(lock: Lock, state: LockState, key: Key, epsilon: float | Float[Array, ""]) -> Array:
    """Return the action of the expert."""
    err_key, action_key = jax.random.split(key)
    errs = jax.random.uniform(err_key) < epsilon
    right = lock.right_action(state, lock.params)
    if isinstance(lock.spec.action, Discrete):
        return jnp.where(errs, jax.random.randint(action_key, (), 0, locks.ACTIONS), right)
    random = jax.random.uniform(action_key, (locks.ACTIONS,))
    return jnp.where(errs, random, jax.nn.one_hot(right, locks.ACTIONS))
