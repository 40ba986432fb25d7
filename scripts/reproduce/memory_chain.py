"""The longest MemoryChain that S5, RNNs, a Transformer and no memory solve, and what length costs.

    python scripts/reproduce/memory_chain.py [--plan] [--only NAME] [--shard I/N] [--minutes M]
    python scripts/reproduce/memory_chain.py --time         seconds per step at T = 256, 1024, 4096

Every agent has 5 million steps at each length, three seeds by vmap, in rollouts of whole episodes,
and sees neither its last action nor its last reward, in which a cue could be written down. All are
as wide as brings their parameters nearest to those of S5; the Transformer has two blocks and reads
the whole episode, so that a step of acting costs it in proportion to the length. A length is solved
if more than half of the seeds answer right in more than 95 % of 256 episodes; the longest one
solved is the last before the first that is not. Equal steps are fewer answers where the chain is
longer: 454,545 at length 10, 1,666 at 3,000.

Trains what is missing, then writes `results/memory-chain/`: table.md per run, solved.md, and for
`--time` length.json and length.md: seconds of one update of 65,536 steps per step of the
environment, the median of five, compilation apart, and how much of that is acting, where no memory
can take several steps at once; it goes on where such a table is there. See shared.py beside this
file. `--smoke` makes everything tiny. Not run on a GPU yet: the minutes are estimates.
"""

import json
import math
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from matching import matched, parameters
from shared import reproduce

from rlssm import (
    EnvConfig,
    GRUConfig,
    LSTMConfig,
    NoneConfig,
    PPOConfig,
    RunConfig,
    S5Config,
    TorsoConfig,
    TransformerConfig,
    make,
)
from rlssm.algorithms import ppo
from rlssm.io.config import environment
from rlssm.train.collect import rollout
from rlssm.train.program import LoopState, on_policy, vectorized
from rlssm.train.run import Run

SEEDS = 3
SMOKE = "--smoke" in sys.argv
NAME = "memory-chain" + "-smoke" * SMOKE
STEPS = 5_000_000
LENGTHS = (3, 10) if SMOKE else (10, 30, 100, 300, 1000, 3000)
TIMED = (8, 16) if SMOKE else (256, 1024, 4096)
BATCH = 64 if SMOKE else 65_536  # steps of an update
REPEATS = 5
SOLVED = 0.9  # mean of +1 and -1 where 95 % of the answers are right

BLIND = TorsoConfig(width=128, hidden=(), observe_action=False, observe_reward=False)
AGENT = PPOConfig(
    core=S5Config(layers=1, state_size=8) if SMOKE else S5Config(layers=4, state_size=256),
    torso=replace(BLIND, width=8) if SMOKE else BLIND,
    epochs=4,
    minibatches=4,
    learning_rate=3e-4,
    anneal_steps=STEPS,
    entropy_coef=0.01,
)
# Of a step that walks the chain one by one, forward and back: an estimate.
SECONDS_SEQUENTIAL = 35e-6


@cache
def rivals() -> dict[str, PPOConfig]:
    """Return the agents by the name of their core, each as wide as its parameters ask."""
    others = GRUConfig(), LSTMConfig(), TransformerConfig(layers=2), NoneConfig()
    return {"s5": AGENT} | {core.name: matched(AGENT, core) for core in others}


def agents(steps: int, length: int) -> dict[str, PPOConfig]:
    """Return the same for rollouts of `steps` on chains of `length`."""
    copies = max(BATCH // steps // AGENT.minibatches, 1) * AGENT.minibatches

    def fitted(agent: PPOConfig) -> PPOConfig:
        core = agent.core
        if isinstance(core, TransformerConfig):
            core = replace(core, context=length)
        return replace(agent, core=core, rollout_length=steps, num_envs=copies)

    return {name: fitted(agent) for name, agent in rivals().items()}


def rollout_of(length: int) -> int:
    """Return the steps of as many whole episodes as make 128 or more.

    Every rollout then begins with episodes, and no answer is cut off from its cue.
    """
    least, episode = 8 if SMOKE else 128, length + 1
    return math.ceil(least / episode) * episode


def configs() -> dict[str, RunConfig]:
    """Return the configuration of every run by its name."""
    return {
        f"{length}-{name}": RunConfig(
            env=EnvConfig(f"MemoryChain-{length}"),
            agent=agent,
            steps=2 * agent.steps_per_update if SMOKE else STEPS,
            seeds=SEEDS,
            eval_every=STEPS // 4,
            eval_episodes=4 if SMOKE else 256,  # as at the end: one program fewer to compile
            final_episodes=4 if SMOKE else 256,
            keep=1,
        )
        for length in LENGTHS
        for name, agent in agents(rollout_of(length), length).items()
    }


def gpu_minutes(run: RunConfig) -> float:
    """Return an estimate: half a minute to compile and evaluate, acting, and what walks in time."""
    agent = run.agent
    assert isinstance(agent, PPOConfig)
    updates = run.steps / agent.steps_per_update
    walked = agent.rollout_length * agent.epochs * agent.minibatches * SECONDS_SEQUENTIAL
    beside, learning = 0.5, walked if agent.core.name in ("gru", "lstm") else 0.3
    if agent.core.name == "transformer":
        beside += 0.3e-3 * agent.rollout_length
        learning += 0.3e-3 * agent.rollout_length
    return beside + updates * (agent.rollout_length * 0.5e-3 + learning) / 60


def report(runs: Path, out: Path) -> None:
    """Write solved.md: what each agent answers at each length, and the longest one it solves."""
    counts = {name: parameters(agent) for name, agent in rivals().items()}
    head = " | ".join(map(str, LENGTHS))
    rows = [f"| core | parameters | {head} | longest solved |", "|---" * (len(LENGTHS) + 3) + "|"]
    for name, count in counts.items():
        cells, longest, solved = [], "none", True
        for length in LENGTHS:
            path = runs / f"{length}-{name}"
            if not (path / "result.json").exists():
                cells.append("")
                solved = False
                continue
            returns = np.array(Run(path).result["last"]["eval/return"])
            cells.append(", ".join(f"{x:.2f}" for x in returns))
            solved = solved and (returns > SOLVED).mean() > 0.5
            longest = str(length) if solved else longest
        rows.append(f"| {name} | {count:,} | {' | '.join(cells)} | {longest} |")
    (out / "solved.md").write_text("\n".join(rows) + "\n")
    print("\n".join(rows))


# --- What length costs ------------------------------------------------------------------------


def time_lengths(out: Path) -> None:
    """Measure all cores at all lengths, write after each, and go on where a table is there."""
    file = out / "length.json"
    made = environment()
    record: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {"rows": []}
    about = {"device": made["device_kind"], "revision": made["git_revision"], "batch": BATCH}
    if any(record.get(name, value) != value for name, value in about.items()):
        raise SystemExit(f"{file} holds timings of another device or revision; move it away")
    record |= about
    out.mkdir(parents=True, exist_ok=True)
    for length in TIMED:
        for name, agent in agents(length, length).items():
            if any((r["length"], r["core"]) == (length, name) for r in record["rows"]):
                continue
            row = {"length": length, "core": name, **time_one(agent, length)}
            record["rows"].append(row)
            print(row, flush=True)
            file.write_text(json.dumps(record, indent=1) + "\n")
    pace = {
        (r["length"], r["core"]): (r["seconds_per_step"], r["acting_seconds_per_step"])
        for r in record["rows"]
    }
    rows = [
        "| T | core | parameters | compile s | ns per step | times S5 | acting | learning "
        "| times S5 |",
        "|---" * 9 + "|",
    ]
    for r in record["rows"]:
        whole, acting = pace[r["length"], r["core"]]
        ours, ours_acting = pace[r["length"], "s5"]
        rows.append(
            f"| {r['length']} | {r['core']} | {r['parameters']:,} | {r['compile_seconds']:.1f} "
            f"| {1e9 * whole:,.0f} | {whole / ours:.2f} | {1e9 * acting:,.0f} "
            f"| {1e9 * (whole - acting):,.0f} | {(whole - acting) / (ours - ours_acting):.2f} |"
        )
    (out / "length.md").write_text("\n".join(rows) + "\n")
    print("\n".join(rows))


def time_one(agent: PPOConfig, length: int) -> dict[str, Any]:
    """Return what one update takes per step of the environment, and what compiling it took.

    Acting is timed on its own, on the state after those updates.
    """
    env = make(f"MemoryChain-{length}")
    program, wish = on_policy(agent, env), ppo.batch_spec(agent)
    envs = vectorized(env, wish.num_envs)

    def act_only(state: LoopState) -> Any:
        act: Any = partial(ppo.act, agent, env.spec, state.agent.params, greedy=False)
        return rollout(envs, act, state.runner, wish)

    state = jax.block_until_ready(jax.jit(program.init)(jax.random.key(0), {}))
    started = time.perf_counter()
    chunk = jax.jit(program.chunk, donate_argnums=0).lower(state, None, jnp.int32(1)).compile()
    compiled = time.perf_counter() - started
    acting = jax.jit(act_only).lower(state).compile()

    def advance() -> None:
        nonlocal state
        state, _ = jax.block_until_ready(chunk(state, None, jnp.int32(1)))

    whole = [seconds / agent.steps_per_update for seconds in timed(advance)]
    alone = [seconds / agent.steps_per_update for seconds in timed(lambda: acting(state))]
    return {
        "parameters": parameters(agent),
        "compile_seconds": compiled,
        "seconds_per_step": float(np.median(whole)),
        "acting_seconds_per_step": float(np.median(alone)),
        "all_seconds_per_step": whole,
        "all_acting_seconds_per_step": alone,
    }


def timed(once: Callable[[], Any]) -> list[float]:
    """Return the seconds of each of `REPEATS` calls, after one that is not counted."""
    seconds = []
    for _ in range(REPEATS + 1):
        started = time.perf_counter()
        jax.block_until_ready(once())
        seconds.append(time.perf_counter() - started)
    return seconds[1:]


if __name__ == "__main__":
    timing = "--time" in sys.argv
    sys.argv = [word for word in sys.argv if word not in ("--smoke", "--time")]
    if timing:
        time_lengths(Path("results") / NAME)
    else:
        reproduce(NAME, __doc__ or "", configs(), gpu_minutes, report)
