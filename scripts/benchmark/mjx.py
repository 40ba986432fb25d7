"""Compare the MJX environments with Gymnasium's, and time them.

`--accuracy` takes transitions from random rollouts in Gymnasium, repeats each on MJX from the same
state, warm start included, and tables the errors of next state, observation and reward: in float64
and float32, under both solver settings, for actions with a contact and for those without. It takes
about 20 minutes on 2 CPU cores, nearly all of them to compile.

`--returns` compares mean returns of fixed policies over 100 episodes: those that ship with the
package on HalfCheetah, Hopper and Walker2d, formulas on the others. A task takes up to 3 minutes of
a data-centre GPU (Ant), and much longer on a CPU where there is contact.

`--speed` times environment steps through `Vectorized`, resets included, under random actions. All
programs are compiled first, several at a time; what that took is printed apart. The default tasks,
batches and settings are meant to stay under 5 minutes of a data-centre GPU.

    python scripts/benchmark/mjx.py --accuracy --out results/benchmark/mjx-accuracy.json
    python scripts/benchmark/mjx.py --returns --tasks HalfCheetah-v5 Hopper-v5 Walker2d-v5
    python scripts/benchmark/mjx.py --speed --tasks HalfCheetah-v5 --batches 4096
"""

import argparse
import json
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np

from rlssm.envs.base import Vectorized
from rlssm.envs.locomotion import TASKS, Physics
from rlssm.envs.mjx_env import FAMILIES, MjxEnvironment, MjxState, make
from rlssm.envs.mjx_model import c_mujoco, quiet_mujoco
from rlssm.train.policy_file import load_policies, path_of

TIMED = ["HalfCheetah-v5", "Hopper-v5", "Walker2d-v5", "Ant-v5"]
BATCHES = [64, 1024, 4096]
STRIDE = 3  # every third state of a rollout is taken
EPISODES = 100
STEPS = 20  # timed environment steps of every copy


class Transitions(NamedTuple):
    """Transitions of Gymnasium, NumPy arrays `[N, ...]`; `state` is what they started from."""

    state: MjxState
    action: Any  # in [-1, 1]
    qpos: Any
    qvel: Any
    obs: Any
    reward: Any
    terminated: Any
    touching: Any


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--accuracy", action="store_true", help="compare with Gymnasium")
    parser.add_argument("--returns", action="store_true", help="compare policies' mean returns")
    parser.add_argument("--speed", action="store_true", help="time environment steps")
    parser.add_argument("--tasks", nargs="+", choices=list(TASKS), help="default: all, or timed")
    parser.add_argument("--samples", type=int, default=1000, help="transitions of each task")
    parser.add_argument("--batches", nargs="+", type=int, default=BATCHES, help="copies timed")
    parser.add_argument("--out", type=Path, help="JSON file for the results")
    args = parser.parse_args()
    if not (args.accuracy or args.returns or args.speed):
        parser.error("nothing to do: give --accuracy, --returns or --speed")

    device = jax.devices()[0]
    print(f"device {device.device_kind} ({device.platform}), jax {jax.__version__}")
    print("matmul precision: highest")
    results: dict[str, Any] = {"device": device.device_kind, "jax": jax.__version__}
    results |= {"mujoco": c_mujoco().__version__, "gymnasium": gymnasium.__version__}
    if args.accuracy:
        tasks = args.tasks or list(TASKS)
        results["transitions"] = [row for task in tasks for row in accuracy(task, args.samples)]
    if args.returns:
        results["returns"] = [compare_returns(task) for task in args.tasks or POLICIES]
    if args.speed:
        results["speed"] = speed(args.tasks or TIMED, args.batches)
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(results, indent=1) + "\n")


# --- Single transitions -----------------------------------------------------------------------


def make_gymnasium(task: str) -> gymnasium.Env:
    with quiet_mujoco():
        return gymnasium.make(task)


def collect(task: str, samples: int, seed: int = 0) -> Transitions:
    """Return transitions of a random policy in Gymnasium, every `STRIDE`th step of its rollouts."""
    env = make_gymnasium(task)
    inner: Any = env.unwrapped
    rng = np.random.default_rng(seed)
    env.reset(seed=seed)
    rows: list[Transitions] = []
    step = 0
    while len(rows) < samples:
        action = rng.uniform(-1, 1, TASKS[task].action_size)
        state, touching = carried(task, inner.data), touches(inner, action)
        obs, reward, terminated, truncated, _ = env.step(action * inner.action_space.high)
        if step % STRIDE == 0:
            after = inner.data.qpos.copy(), inner.data.qvel.copy()
            rows.append(Transitions(state, action, *after, obs, reward, terminated, touching))
        step += 1
        if terminated or truncated:
            env.reset()
    env.close()
    return jax.tree.map(lambda *leaves: np.stack(leaves), *rows)


def carried(task: str, data: Any) -> MjxState:
    """Return what Gymnasium carries into its next step."""
    seen: list[Any] = [np.array(getattr(data, name)) for name in Physics._fields]
    position = TASKS[task].position(Physics(*seen))
    carry: list[Any] = [np.array(x) for x in (data.qpos, data.qvel, data.qacc_warmstart)]
    return MjxState(*carry, position, np.int32(0))  # ty: ignore[invalid-argument-type]


def touches(inner: Any, action: np.ndarray) -> bool:
    """Return whether anything is in contact before, during or after the action."""
    mujoco = c_mujoco()
    data = mujoco.MjData(inner.model)
    data.qpos, data.qvel = inner.data.qpos, inner.data.qvel
    data.qacc_warmstart, data.ctrl = inner.data.qacc_warmstart, action * inner.action_space.high
    contacts = inner.data.ncon
    for _ in range(inner.frame_skip):
        mujoco.mj_step(inner.model, data)
        contacts += data.ncon
    mujoco.mj_forward(inner.model, data)
    return contacts + data.ncon > 0


def accuracy(task: str, samples: int) -> list[dict[str, Any]]:
    """Print and return the errors of one task, one row for each precision, setting and kind."""
    data = collect(task, samples)
    results = []
    print(f"\n{task}: {samples} transitions, {data.touching.mean():.0%} with contact")
    print("  precision solver    contact       n  quantity     median      99 %       max")
    for x64 in (True, False):
        for family in FAMILIES:
            with jax.enable_x64(x64):
                errors = transition_errors(make(f"{family}/{task}"), data)
            for contact, chosen in ((False, ~data.touching), (True, data.touching)):
                if not chosen.any():
                    continue
                row: dict[str, Any] = {"task": task, "precision": "float64" if x64 else "float32"}
                row |= {"family": family, "contact": contact, "samples": int(chosen.sum())}
                row |= {name: summary(error[chosen]) for name, error in errors.items()}
                results.append(row)
                show(row)
    return results


def transition_errors(
    env: MjxEnvironment, data: Transitions, jit: Callable[..., Any] = jax.jit
) -> dict[str, np.ndarray]:
    """Return the largest error of each transition, by quantity, in the precision JAX is set to."""
    advance = jit(jax.vmap(env.advance, (0, 0, None)))
    given = jax.tree.map(jnp.asarray, (data.state, data.action))
    state, outcome = advance(*given, env.params)

    def largest(ours: Any, theirs: np.ndarray) -> np.ndarray:
        return np.abs(np.asarray(ours) - theirs).reshape(len(theirs), -1).max(axis=1)

    return {
        "state": np.maximum(largest(state.qpos, data.qpos), largest(state.qvel, data.qvel)),
        "obs": largest(outcome.obs, data.obs),
        "reward": largest(outcome.reward, data.reward),
        "terminated": np.asarray(outcome.terminated) != data.terminated,
    }


def summary(error: np.ndarray) -> Any:
    if error.dtype == bool:
        return int(error.sum())
    median, high = np.percentile(error, [50, 99])
    return {"median": float(median), "p99": float(high), "max": float(error.max())}


def show(row: dict[str, Any]) -> None:
    contact = "yes" if row["contact"] else "no"
    head = f"  {row['precision']:9s} {row['family']:9s} {contact:9s} {row['samples']:6d}"
    for name in ("state", "obs", "reward"):
        e = row[name]
        print(f"{head}  {name:9s} {e['median']:9.1e} {e['p99']:9.1e} {e['max']:9.1e}")
        head = " " * len(head)
    if row["terminated"]:
        print(f"{head}  {row['terminated']} terminations differ")


# --- Returns ----------------------------------------------------------------------------------


def balance(obs: Any, time: Any) -> Any:
    """Push the cart under the pole, heedless of where the rail ends; there the pole falls."""
    return 2.0 * obs[..., 1:2] + 0.1 * obs[..., 3:4]


def reach(obs: Any, time: Any) -> Any:
    """Turn both joints so that the fingertip moves towards the target."""
    c1, c2, s1, s2 = (obs[..., i] for i in range(4))
    c12, s12 = c1 * c2 - s1 * s2, s1 * c2 + c1 * s2
    gap, speed = obs[..., 8:10], obs[..., 6:8]
    elbow = 0.11 * (-s12 * gap[..., 0] + c12 * gap[..., 1])
    shoulder = elbow + 0.1 * (-s1 * gap[..., 0] + c1 * gap[..., 1])
    return -4.0 * jnp.stack([shoulder, elbow], -1) - 0.02 * speed


def swim(obs: Any, time: Any) -> Any:
    """Bend both joints in a wave that travels backwards."""
    phase = 0.15 * time + np.array([2.0, 0.0])
    return jnp.broadcast_to(jnp.sin(phase), (*obs.shape[:-1], 2))


def keep_up(obs: Any, time: Any) -> Any:
    """Hold both poles upright: the linear-quadratic regulator of the upright state."""
    gains = np.array([-0.13, -0.85, -3.76, 0, 0, -0.18, -0.53, -0.56, 0])
    return (obs * gains).sum(-1, keepdims=True)


def tread(obs: Any, time: Any) -> Any:
    """Shift weight slowly from leg to leg, without falling over."""
    phase = 0.1 * time + np.pi / 2 * np.arange(8)
    return jnp.broadcast_to(0.15 * jnp.sin(phase), (*obs.shape[:-1], 8))


def shipped(env: str) -> Any:
    """Return the best actions of the expert that ships with the package."""

    def expert(obs: Any, time: Any) -> Any:
        *hidden, last = load_policies(path_of(env)).policies["expert"].layers
        x = jnp.asarray(obs, jnp.float32)
        for kernel, bias in hidden:
            x = jnp.maximum(jnp.dot(x, jnp.float32(kernel), precision="highest") + bias, 0)
        x = jnp.dot(x, jnp.float32(last[0]), precision="highest") + last[1]
        return jnp.tanh(jnp.split(x, 2, axis=-1)[0])

    return expert


POLICIES: dict[str, Any] = {
    "InvertedPendulum-v5": balance,
    "Reacher-v5": reach,
    "Swimmer-v5": swim,
    "InvertedDoublePendulum-v5": keep_up,
    "HalfCheetah-v5": shipped("halfcheetah"),
    "Hopper-v5": shipped("hopper"),
    "Walker2d-v5": shipped("walker2d"),
    "Ant-v5": tread,
}


def compare_returns(task: str) -> dict[str, Any]:
    """Print and return mean returns of the task's policy in Gymnasium and under both settings."""
    policy = POLICIES[task]
    returns = {"gymnasium": gymnasium_returns(task, policy)}
    returns |= {family: mjx_returns(make(f"{family}/{task}"), policy) for family in FAMILIES}
    print(f"\n{task}: returns of {EPISODES} episodes of the policy `{policy.__name__}`, float32")
    for name, values in returns.items():
        error = values.std() / EPISODES**0.5
        change = values.mean() / returns["gymnasium"].mean() - 1
        print(f"  {name:9s} {values.mean():9.2f} +- {error:.2f} ({change:+.1%})")
    means = {name: {"mean": float(v.mean()), "std": float(v.std())} for name, v in returns.items()}
    return {"task": task, "policy": policy.__name__, "episodes": EPISODES, **means}


def gymnasium_returns(task: str, policy: Any) -> np.ndarray:
    """Return one return for each episode; they start as those of `mjx_returns` do."""
    envs: list[Any] = [make_gymnasium(task) for _ in range(EPISODES)]
    keys = jax.random.split(jax.random.key(0), EPISODES)
    mjx = make(f"mjx/{task}")
    start = jax.vmap(mjx.reset, (0, None))(keys, mjx.params)[0]
    for env, qpos, qvel in zip(envs, np.array(start.qpos), np.array(start.qvel), strict=True):
        env.reset()
        env.unwrapped.set_state(qpos, qvel)
    obs = np.stack([env.unwrapped._get_obs() for env in envs])
    act = jax.jit(policy)
    alive, total = np.ones(EPISODES, bool), np.zeros(EPISODES)
    high = envs[0].action_space.high
    for time_step in range(TASKS[task].max_steps):
        actions = np.clip(act(obs, time_step), -1, 1) * high
        for i in np.flatnonzero(alive):
            obs[i], reward, terminated, truncated, _ = envs[i].step(actions[i])
            total[i] += float(reward)
            alive[i] = not (terminated or truncated)
    return total


def mjx_returns(env: Any, policy: Any) -> np.ndarray:
    """Return one return for each episode of an environment of known length."""

    def episode(key: Any) -> Any:
        def body(carry: Any, time_step: Any) -> tuple[Any, None]:
            state, obs, alive, total = carry
            state, step = env.step(key, state, policy(obs, time_step), env.params)
            total += jnp.where(alive, step.reward, 0.0)
            return (state, step.obs, alive & ~step.terminated, total), None

        start = (*env.reset(key, env.params), jnp.ones((), bool), jnp.zeros(()))
        steps = jnp.arange(env.spec.max_episode_steps, dtype=jnp.float32)
        return jax.lax.scan(body, start, steps)[0][3]

    keys = jax.random.split(jax.random.key(0), EPISODES)
    return np.asarray(jax.jit(jax.vmap(episode))(keys), np.float64)


# --- Speed ------------------------------------------------------------------------------------


def speed(tasks: list[str], batches: list[int]) -> list[dict[str, Any]]:
    """Print and return environment steps per second."""
    cases = [(f"{family}/{task}", n) for task in tasks for family in FAMILIES for n in batches]
    workers = min(8, os.cpu_count() or 1)
    print(f"\n{len(cases)} programs of {STEPS} steps, compiled {workers} at a time and run twice:")
    print(
        "once to meet states as in use, once timed. The default cases should stay under 5 minutes."
    )
    started = time.perf_counter()
    with ThreadPoolExecutor(workers) as pool:
        futures = [pool.submit(timed_compile, *prepare(*case)) for case in cases]
        programs = [future.result() for future in futures]
    print(f"compiled in {time.perf_counter() - started:.0f} s")
    print("  environment                 copies  compile s  ms per step   steps/s")
    results = []
    for (env_id, copies), (program, compile_s, state) in zip(cases, programs, strict=True):
        state = jax.block_until_ready(program(jax.random.key(1), state))
        started = time.perf_counter()
        jax.block_until_ready(program(jax.random.key(2), state))
        seconds = (time.perf_counter() - started) / STEPS
        rate = copies / seconds
        print(f"  {env_id:27s} {copies:6d} {compile_s:10.1f} {1e3 * seconds:12.2f} {rate:9.0f}")
        row = {"env": env_id, "copies": copies, "compile_s": compile_s, "steps_per_s": rate}
        results.append(row)
    return results


def prepare(env_id: str, copies: int) -> tuple[Any, Any]:
    """Return a lowered program of `STEPS` steps, and the state it starts from."""
    env = Vectorized(make(env_id), copies)
    size = env.spec.action.shape

    def play(key: Any, state: Any) -> Any:
        def body(state: Any, key: Any) -> tuple[Any, Any]:
            act_key, step_key = jax.random.split(key)
            action = jax.random.uniform(act_key, (copies, *size), minval=-1.0, maxval=1.0)
            state, step = env.step(step_key, state, action)
            return state, step.reward.mean()

        return jax.lax.scan(body, state, jax.random.split(key, STEPS))[0]

    state = jax.jit(env.reset)(jax.random.key(0))[0]
    return jax.jit(play).lower(jax.random.key(0), state), state


def timed_compile(lowered: Any, state: Any) -> tuple[Any, float, Any]:
    started = time.perf_counter()
    return lowered.compile(), time.perf_counter() - started, state


if __name__ == "__main__":
    main()
