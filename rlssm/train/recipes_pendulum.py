"""`pendulum/...`: Pendulum-v1 played by a hand-written controller; nothing is trained.

With angle th (0 upright) and speed w, gymnax's and Gymnasium's Pendulum-v1 (g = 10, m = l = 1) is
`dw/dt = 15 sin th + 3 u`. Far from upright the controller pumps energy, near it it holds:

    E = w^2 / 2 + 15 (cos th - 1)       0 when standing upright; dE/dt = 3 u w
    u = -E sign(w)                      swing up
    u = -10 th - 2.5 w                  hold, where |th| < 0.5

A player scales this torque by its `gain`, adds Gaussian noise, and at each step follows it with
probability `skill`, otherwise acts uniformly. At a gain of 0.3 gravity outweighs the torque that
should hold the pendulum: it swings up and falls again.
Source of the law: Astrom and Furuta 2000, "Swinging up a pendulum by energy control".
"""

import math
from functools import partial
from importlib.metadata import version
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from rlssm.data.dataset import DatasetInfo, OfflineDataset, index_episodes
from rlssm.data.scores import Reference
from rlssm.envs import gymnax_env
from rlssm.envs.base import Environment, Step
from rlssm.types import Key

ENV = "Pendulum-v1"
MAX_TORQUE = 2.0
LENGTH = 200  # steps of every episode
REFERENCE_EPISODES = 1000
REFERENCE_SEED = 0  # of the references, which are the same whatever the seed of the data


class Player(NamedTuple):
    """How an episode is played; leaves `[N]` for N episodes."""

    gain: ArrayLike
    noise: ArrayLike  # standard deviation of the torque
    skill: ArrayLike


RANDOM = Player(0.0, 0.0, 0.0)
MEDIUM = Player(0.3, 1.0, 1.0)
EXPERT = Player(1.0, 0.1, 1.0)
BEST = EXPERT._replace(noise=0.0)

# The players of the first and of the last episode of each part of a level; parts are of one size.
LEVELS: dict[str, tuple[tuple[Player, Player], ...]] = {
    "random": ((RANDOM, RANDOM),),
    "medium": ((MEDIUM, MEDIUM),),
    "replay": ((MEDIUM._replace(skill=0.0), MEDIUM),),
    "expert": ((EXPERT, EXPERT),),
    "mixed": ((RANDOM, RANDOM), (MEDIUM, MEDIUM), (EXPERT, EXPERT)),
}
TEXTS = {
    "random": "uniformly random torques",
    "medium": "a weak and noisy controller, about half way between random and expert",
    "replay": "from random to medium, episode by episode",
    "expert": "a controller that swings up and holds, with little noise",
    "mixed": "equal shares of random, medium and expert",
}


def build(name: str, steps: int, seed: int, progress: bool) -> OfflineDataset:
    """Return the data of a recipe such as `pendulum/medium`: whole episodes, `steps` or more.

    All episodes are played at once, in seconds, so `progress` is not shown.
    """
    parts = LEVELS[name.rpartition("/")[2]]
    env = gymnax_env.make(ENV)
    episodes = math.ceil(steps / LENGTH / len(parts))
    count = episodes * len(parts)
    players = [_between(*part, episodes) for part in parts]
    references = [_between(player, player, REFERENCE_EPISODES) for player in (RANDOM, BEST)]
    keys = [
        jax.random.split(jax.random.key(seed), count),
        jax.random.split(jax.random.key(REFERENCE_SEED), REFERENCE_EPISODES * len(references)),
    ]
    everyone = jax.tree.map(lambda *x: np.concatenate(x), *players, *references)
    first, taken, played = jax.device_get(play(env, jnp.concatenate(keys), everyone))
    low, high = played.reward[count:].sum(1, dtype=np.float64).reshape(2, -1).mean(1)
    obs = np.concatenate([first[:, None], played.obs], axis=1)[:count]
    episode, start = index_episodes([LENGTH] * count)
    return OfflineDataset(
        obs=obs.reshape(-1, *obs.shape[2:]),
        action=taken[:count].reshape(-1, *taken.shape[2:]),
        reward=played.reward[:count].ravel(),
        terminated=played.terminated[:count].ravel(),
        truncated=played.truncated[:count].ravel(),
        episode=episode,
        start=start,
        extras={},
        info=_info(name, env, Reference(float(low), float(high), _SOURCE), steps, seed),
    )


_SOURCE = (
    f"mean returns on {ENV} of random torques and of the recipe's noiseless expert, "
    f"{REFERENCE_EPISODES} episodes each"
)


def _info(name: str, env: Environment, reference: Reference, steps: int, seed: int) -> DatasetInfo:
    level = name.rpartition("/")[2]
    players = "; ".join(
        " to ".join(
            dict.fromkeys(f"gain {p.gain:g}, noise {p.noise:g}, skill {p.skill:g}" for p in part)
        )
        for part in LEVELS[level]
    )
    provenance = {
        "algorithm_name": "hand-written energy-shaping controller",
        "author": "rlssm",
        "description": f"{ENV} of gymnax, {TEXTS[level]}; {players}",
        "recipe": f"rlssm data make {name} --steps {steps} --seed {seed}",
        "versions": ", ".join(f"{package} {version(package)}" for package in ("gymnax", "jax")),
    }
    return DatasetInfo(
        id=f"{name}-v0",
        spec=env.spec,
        action_bounds=((-MAX_TORQUE,), (MAX_TORQUE,)),
        env=ENV,
        reference=reference,
        provenance=tuple(sorted(provenance.items())),
    )


def _between(first: Player, last: Player, episodes: int) -> Player:
    """Return players that go evenly from one to another, `[episodes]`."""
    return Player(
        *(np.linspace(a, b, episodes, dtype=np.float32) for a, b in zip(first, last, strict=True))
    )


@partial(jax.jit, static_argnums=0)
def play(
    env: Environment, keys: Key, players: Player
) -> tuple[Float[Array, "N 3"], Float[Array, "N T 1"], Step]:
    """Play an episode for each key and player.

    Returns:
        The first observations, the actions on [-1, 1], and what the environment said to each.
    """

    def episode(key: Key, player: Player) -> tuple[Array, Array, Step]:
        reset_key, steps_key = jax.random.split(key)
        state, first = env.reset(reset_key, env.params)

        def step(before: tuple, key: Key) -> tuple[tuple, tuple[Array, Step]]:
            state, obs = before
            action = act(player, obs, key) / MAX_TORQUE
            state, out = env.step(key, state, action[None], env.params)
            return (state, out.obs), (action[None], out._replace(info={}))

        keys = jax.random.split(steps_key, LENGTH)
        _, (actions, steps) = jax.lax.scan(step, (state, first), keys)
        return first, actions, steps

    return jax.vmap(episode)(keys, players)


def act(player: Player, obs: Float[Array, " 3"], key: Key) -> Float[Array, ""]:
    """Return the torque of a player, in [-2, 2]."""
    follow_key, noise_key, uniform_key = jax.random.split(key, 3)
    noise = player.noise * jax.random.normal(noise_key)
    own = jnp.clip(player.gain * torque(obs) + noise, -MAX_TORQUE, MAX_TORQUE)
    uniform = jax.random.uniform(uniform_key, minval=-MAX_TORQUE, maxval=MAX_TORQUE)
    return jnp.where(jax.random.uniform(follow_key) < player.skill, own, uniform)


def torque(obs: Float[Array, " 3"]) -> Float[Array, ""]:
    """Return the torque of the law above, not yet clipped."""
    cos, sin, speed = obs
    angle = jnp.arctan2(sin, cos)
    energy = speed**2 / 2 + 15 * (cos - 1)
    swing_up = -energy * jnp.where(speed >= 0, 1.0, -1.0)  # at rest it must move, too
    return jnp.where(jnp.abs(angle) < 0.5, -10 * angle - 2.5 * speed, swing_up)
