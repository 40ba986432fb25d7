"""Gymnasium environments, on the host, behind this library's contract.

`reset` and `step` are pure functions although the environments are Python objects: what the next
step depends on is an array in the state, and the host finds or makes an environment that stands
there (`gymnasium_host`). So they may be compiled, vmapped, scanned, repeated and resumed like any
other. A whole batch is handed over at once, however many vmaps it is made of. An exception on the
host ends the computation with its text; compiled code that calls the host is not cached on disk.

- Gymnasium's own MuJoCo environments keep the bits of MuJoCo's state, and their dynamics can be
  scaled. A batch is spread over the processors.
- All others (classic control, toy text, Box2D, robotics) keep the seed of their reset and the
  actions since. A batch is stepped one by one. An episode under way is played again from its
  start where no live environment stands at that point: once for each environment when a run is
  resumed, which costs as many steps as the episode has had, and gives the same episode.

The wrappers that end episodes are left out: termination is the environment's, truncation is by
Gymnasium's limit, counted here. An episode that is over stands still: another step pays nothing,
shows zeros and says terminated, at no cost. `info["success"]` is what Gymnasium's `info` calls
`success` or `is_success`, where its first step names one of them.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int32, UInt8, UInt32

from rlssm.envs.base import Step
from rlssm.envs.perturbed import Scales
from rlssm.types import Key, Space, Spec, zeros

if TYPE_CHECKING:  # Gymnasium and MuJoCo are imported when an environment is made
    from rlssm.envs.gymnasium_host import Host, MujocoHost, Outcome, ReplayHost

# What `rlssm list envs` shows; every id that Gymnasium knows can be made.
IDS = (
    "Ant-v5",
    "HalfCheetah-v5",
    "Hopper-v5",
    "Humanoid-v5",
    "HumanoidStandup-v5",
    "InvertedDoublePendulum-v5",
    "InvertedPendulum-v5",
    "Pusher-v5",
    "Reacher-v5",
    "Swimmer-v5",
    "Walker2d-v5",
    "Acrobot-v1",
    "CartPole-v1",
    "MountainCar-v0",
    "MountainCarContinuous-v0",
    "Pendulum-v1",
)


class MujocoState(NamedTuple):
    """Where a MuJoCo environment stands.

    Attributes:
        physics: the bits of MuJoCo's float64 state, uint32 `[words]`.
        time: steps taken, int32.
        over: whether the episode has ended.
    """

    physics: UInt32[Array, " words"]
    time: Int32[Array, ""]
    over: Bool[Array, ""]


class ReplayState(NamedTuple):
    """Where any other environment stands.

    Attributes:
        seed: of its reset, uint32.
        actions: those taken, as Gymnasium takes them, `[limit, ...]`; zeros from `time` on.
        digest: a name for the two, uint8 `[16]`.
        time: steps taken, int32.
        over: whether the episode has ended.
    """

    seed: UInt32[Array, ""]
    actions: Array
    digest: UInt8[Array, "16"]
    time: Int32[Array, ""]
    over: Bool[Array, ""]


@dataclass(frozen=True)
class MujocoEnvironment:
    """One of Gymnasium's MuJoCo environments; `params` scale its dynamics. Build it with `make`."""

    name: str
    host: "MujocoHost" = field(repr=False, compare=False)

    @property
    def spec(self) -> Spec:
        return _spec(self.host)

    @property
    def bounds(self) -> tuple[np.ndarray, np.ndarray] | None:
        """What -1 and 1 stand for, None for discrete actions."""
        return self.host.bounds

    @property
    def params(self) -> Scales:
        return Scales.unchanged()

    def scaled(self, params: Scales, scales: Scales) -> Scales:
        """Return parameters with the dynamics scaled.

        Friction is that of every geom in all its components; mass goes with inertia and with what
        MuJoCo derives from the two; actuator is the gear of every actuator.
        """
        return jax.tree.map(jnp.multiply, params, scales)

    def reset(self, key: Key, params: Scales) -> tuple[MujocoState, Any]:
        physics = jax.ShapeDtypeStruct((self.host.words,), jnp.uint32)
        obs, physics = _on_host(
            self.host.reset, (_like(self.host.obs), physics), _seed(key), jnp.stack(params)
        )
        return MujocoState(physics, jnp.zeros((), jnp.int32), jnp.zeros((), bool)), obs

    def step(
        self, key: Key, state: MujocoState, action: Array, params: Scales
    ) -> tuple[MujocoState, Step]:
        physics, outcome = _on_host(
            self.host.step,
            (state.physics, _outcome(self.host)),
            state.physics,
            state.over,
            _rescale(self.host, action),
            jnp.stack(params),
        )
        time, step = _step(self.host, state.time, outcome)
        return MujocoState(physics, time, step.terminated | step.truncated), step


@dataclass(frozen=True)
class ReplayedEnvironment:
    """Any other Gymnasium environment. Build it with `make`."""

    name: str
    host: "ReplayHost" = field(repr=False, compare=False)

    @property
    def spec(self) -> Spec:
        return _spec(self.host)

    @property
    def bounds(self) -> tuple[np.ndarray, np.ndarray] | None:
        """What -1 and 1 stand for, None for discrete actions."""
        return self.host.bounds

    @property
    def params(self) -> tuple[()]:
        return ()

    def reset(self, key: Key, params: tuple[()]) -> tuple[ReplayState, Any]:
        seed = _seed(key)
        digest = jax.ShapeDtypeStruct((16,), jnp.uint8)
        obs, digest = _on_host(self.host.reset, (_like(self.host.obs), digest), seed)
        return ReplayState(
            seed=seed,
            actions=zeros(self.host.action, (self.host.limit,)),
            digest=digest,
            time=jnp.zeros((), jnp.int32),
            over=jnp.zeros((), bool),
        ), obs

    def step(
        self, key: Key, state: ReplayState, action: Array, params: tuple[()]
    ) -> tuple[ReplayState, Step]:
        action = _rescale(self.host, action)
        digest, outcome = _on_host(
            self.host.step, (state.digest, _outcome(self.host)), *state, action
        )
        time, step = _step(self.host, state.time, outcome)
        return ReplayState(
            seed=state.seed,
            actions=state.actions.at[state.time].set(action, mode="drop"),
            digest=digest,
            time=time,
            over=step.terminated | step.truncated,
        ), step


def make(name: str) -> MujocoEnvironment | ReplayedEnvironment:
    """Return the environment of a Gymnasium id, such as `Hopper-v5`, or `package:id`.

    Raises:
        UserError: if there is no such id, or it cannot be made, or its spaces cannot be served.
    """
    from rlssm.envs.gymnasium_host import MujocoHost, host

    made = host(name)
    if isinstance(made, MujocoHost):
        return MujocoEnvironment(name, made)
    return ReplayedEnvironment(name, made)


def exists(name: str) -> bool:
    """Return whether Gymnasium, or a package that adds to it, knows an id."""
    if name in IDS:
        return True
    from rlssm.envs.gymnasium_make import registered

    return registered(name)


def all_ids() -> list[str]:
    """Return every id that Gymnasium knows."""
    from rlssm.envs.gymnasium_make import ids

    return sorted(ids())


def _spec(host: "Host") -> Spec:
    return Spec(obs=host.obs, action=host.action, max_episode_steps=host.limit)


def _seed(key: Key) -> UInt32[Array, ""]:
    return jax.random.bits(key, (), jnp.uint32)


def _rescale(host: "Host", action: Array) -> Array:
    """Return the action in the environment's units, which are exact where these are [-1, 1]."""
    if host.bounds is None:
        return jnp.asarray(action, jnp.int32)
    low, high = host.bounds
    centre, half = low / 2 + high / 2, high / 2 - low / 2
    return jnp.asarray(centre + half * jnp.clip(action, -1, 1), jnp.float32)


def _step(host: "Host", time: Array, outcome: Any) -> tuple[Array, Step]:
    """Return the time after a step, and the step; the limit is counted here."""
    time = time + 1
    terminated = outcome.terminated
    step = Step(
        obs=outcome.obs,
        reward=outcome.reward,
        terminated=terminated,
        truncated=(outcome.truncated | (time >= host.limit)) & ~terminated,
        info={"success": outcome.success} if host.tells_success else {},
    )
    return time, step


# --- Calls to the host -------------------------------------------------------------------------


def _like(space: Space) -> Any:
    return jax.eval_shape(lambda: zeros(space))


def _outcome(host: "Host") -> "Outcome":
    from rlssm.envs.gymnasium_host import Outcome

    flag: Any = jax.ShapeDtypeStruct((), bool)
    reward: Any = jax.ShapeDtypeStruct((), jnp.float32)
    return Outcome(_like(host.obs), reward, flag, flag, flag)


def _on_host(function: Callable[..., Any], results: Any, *args: Array) -> Any:
    """Call `function` with NumPy arrays `[N, ...]` and return its results, here for one of the N.

    However many vmaps there are around, the function is called once, for all of them together.

    Args:
        results: shapes and dtypes of the results, without the axis of the batch.
    """
    ranks = [arg.ndim for arg in args]

    def call(*batches: Any) -> Any:
        arrays = [np.asarray(batch) for batch in batches]
        axes = arrays[0].shape[: arrays[0].ndim - ranks[0]]
        rows = [
            array.reshape((-1, *array.shape[array.ndim - rank :]))
            for array, rank in zip(arrays, ranks, strict=True)
        ]
        found = function(*rows)
        return jax.tree.map(lambda x: x.reshape((*axes, *x.shape[1:])), found)

    return jax.pure_callback(
        call, jax.tree.map(_shape, results), *args, vmap_method="broadcast_all"
    )


def _shape(x: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(x.shape, x.dtype)
