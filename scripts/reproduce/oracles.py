"""Our learners against those of d3rlpy and Stable-Baselines3: one update of each.

    python -m venv ~/oracle && ~/oracle/bin/pip install d3rlpy==2.8.1 stable-baselines3==2.9.2
    python scripts/reproduce/oracles.py --oracle-python ~/oracle/bin/python

They need a Python of their own: d3rlpy pins a gymnasium that ours does not run with. The two
halves, this file and oracle_torch.py, talk through .npz files. A torch without CUDA is enough.

It copies random weights into both sides, hands both the same batch and the same random numbers in
float64, lets each make one update, and compares losses, the gradients that the optimisers were
handed, and where the first step went; it takes two CPU minutes. A difference is the largest
|ours - theirs| of an array over its largest |theirs|; the worst of a network's arrays counts.
`CASES` says where the two differ by design, and what makes them comparable. oracles_learning.py
lets both make 100,000 updates.
"""

import argparse
import json
import math
import subprocess
import tempfile
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rlssm.algorithms import ALGORITHMS
from rlssm.algorithms.awac import AWACConfig
from rlssm.algorithms.bc import BCConfig
from rlssm.algorithms.cql import CQLConfig
from rlssm.algorithms.iql import MAX_WEIGHT, IQLConfig
from rlssm.algorithms.sac import SACConfig
from rlssm.algorithms.td3bc import TD3BCConfig
from rlssm.io.config import environment
from rlssm.nn.mlp import MLPConfig
from rlssm.types import Box, Discrete, Previous, Spec, Trajectory, Transition, zeros

Arrays = dict[str, Any]  # NumPy's

# --- One update: the cases --------------------------------------------------------------------

TOLERANCE = 1e-5
BATCH, OBSERVATIONS, ACTIONS, HIDDEN = 64, 5, 3, (32, 32)
NETWORK = MLPConfig(HIDDEN, "relu")
B1, EPS = 0.9, 1e-8  # of Adam, on both sides
TEMPERATURE = 0.3  # first value of α, so that it shows where it is a factor

Draws = list[np.ndarray]


class Case(NamedTuple):
    """One of our algorithms beside one of theirs.

    `losses` has, per network, the name of its loss in our metrics and in theirs. `factor` returns
    by how much our losses and gradients are a multiple of theirs, per network, from our metrics.
    `draws` turns the random numbers that our update drew, in order, into theirs: normal, uniform.
    With `hold` their step sizes are 0: they take the actor's loss after the critics' step, we at
    the same weights, and gradients do not depend on the step size. Then no steps are compared.
    """

    theirs: str
    config: Any
    options: dict[str, Any]
    losses: dict[str, tuple[str, str]]
    note: str
    draws: Callable[[Draws], tuple[Draws, Draws]] = lambda ours: ([], [])
    factor: Callable[[dict[str, float]], dict[str, float]] = lambda metrics: {}
    hold: bool = False
    silent: bool = False  # whether the first of our random numbers is 0
    log_std_range: tuple[float, float] | None = None  # of theirs: low + (high - low) sigmoid(raw)
    discrete: bool = False


def theirs_of(config: Any) -> dict[str, Any]:
    """Return the settings of an algorithm under the names that d3rlpy has for them."""
    names = {
        "discount": "gamma", "polyak": "tau", "critics": "n_critics", "expectile": "expectile",
        "beta": "weight_temp", "policy_noise": "target_smoothing_sigma",
        "noise_clip": "target_smoothing_clip", "policy_delay": "update_actor_interval",
        "alpha": "alpha", "cql_actions": "n_action_samples", "cql_alpha": "conservative_weight",
        "init_temperature": "initial_temperature", "learning_rate": "actor_learning_rate",
        "critic_learning_rate": "critic_learning_rate", "max_target_backup": "max_q_backup",
        "temperature_learning_rate": "temp_learning_rate",
    }  # fmt: skip
    found = {them: getattr(config, us) for us, them in names.items() if hasattr(config, us)}
    if config.name == "iql":
        found["max_weight"] = MAX_WEIGHT
    if config.name == "awac":
        found["lam"] = config.temperature
    if config.name == "bc":
        return {"learning_rate": config.learning_rate}
    return found


SAC = SACConfig(actor=NETWORK, critic=NETWORK, init_temperature=TEMPERATURE)
CQL = CQLConfig(
    actor=NETWORK, critic=NETWORK, init_temperature=TEMPERATURE, normalize_obs=False, cql_actions=4
)
IQL = IQLConfig(actor=NETWORK, critic=NETWORK, beta=10.0)  # two weights at their limit
TD3BC = TD3BCConfig(actor=NETWORK, critic=NETWORK, normalize_obs=False)
# No weight of the batch may reach AWAC's limit, which d3rlpy does not have.
AWAC = AWACConfig(actor=NETWORK, critic=NETWORK, temperature=2.0)
BC = BCConfig(actor=NETWORK)

CRITIC, ACTOR = {"critic": ("critic/loss", "critic_loss")}, {"actor": ("actor/loss", "actor_loss")}


def _one(draw: np.ndarray) -> np.ndarray:
    return draw.reshape(BATCH, ACTIONS)


def _several(draw: np.ndarray) -> np.ndarray:
    return draw.reshape(-1, BATCH, ACTIONS)


def _cql(config: CQLConfig, note: str, following: Callable | None, **options: Any) -> Case:
    """Return a case of CQL, `following` being the shape of the noise in their target, if any."""
    if config.lagrange_gap is None:
        options |= {"alpha_learning_rate": 0.0, "alpha_threshold": 0.0}

    def draws(ours: Draws) -> tuple[Draws, Draws]:
        target, uniform, *rest, action = ours
        normals = [] if following is None else [following(target)]
        normals += [*map(_several, rest), _one(action)]
        return normals, [_several(uniform).swapaxes(0, 1).reshape(-1, ACTIONS)]

    return Case(
        "CQL",
        config,
        theirs_of(config) | options,
        CRITIC | ACTOR,
        f"{note}; theirs steps temperature, multiplier and critics before the actor's loss: step "
        "sizes 0; their temperature loss is on α, ours on log α, 1/α of it",
        draws=draws,
        factor=lambda metrics: {"temperature": 1 / TEMPERATURE},
        hold=True,
        silent=following is None,
    )


CASES = {
    "SAC": Case(
        "SAC",
        SAC,
        {"gamma": SAC.discount, "tau": SAC.polyak, "ent_coef": f"auto_{TEMPERATURE}"},
        {
            "critic": ("critic/loss", "train/critic_loss"),
            "actor": ("actor/loss", "train/actor_loss"),
        },
        "theirs has ½ before the critics' loss: a factor; 1e-6 inside log(1 - a²), set to 0; "
        "-20 as the lower limit of the log standard deviation, ours -5: out of reach here",
        draws=lambda ours: ([_one(ours[1]), _one(ours[0])], []),
        factor=lambda metrics: {"critic": 2.0},
    ),
    "CQL": _cql(
        CQL,
        "theirs has the target at the mode of the policy, ours at a sample: its noise is 0 here",
        None,
    ),
    "CQL, soft target and multiplier": _cql(
        replace(CQL, backup_entropy=True, lagrange_gap=0.8),
        "entropy in the target, a learnt multiplier",
        _one,
        soft_q_backup=True,
        alpha_threshold=0.8,
    ),
    "CQL, best of several targets": _cql(
        replace(CQL, max_target_backup=True), "the target of antmaze", _several
    ),
    "IQL": Case(
        "IQL",
        IQL,
        theirs_of(IQL),
        {"value": ("value/loss", "v_loss"), "critic": ("critic/loss", "q_loss")} | ACTOR,
        "theirs sums the critics' loss over critics, ours is their mean: a factor; theirs weighs "
        "the actor with V after its step, ours before: step sizes 0; their log standard deviation "
        "is -5 + 7 sigmoid(parameter), ours the parameter: gradients are mapped through that; they "
        "have no deterministic policy",
        factor=lambda metrics: {"critic": 0.5},
        hold=True,
        log_std_range=(-5.0, 2.0),
    ),
    "TD3+BC": Case(
        "TD3PlusBC",
        TD3BC,
        theirs_of(TD3BC),
        CRITIC | ACTOR,
        "theirs steps the actor at updates 0, 2, ..., ours (as its authors) at the second, "
        "fourth, ...: an update with an actor's step on both sides",
        draws=lambda ours: ([_one(ours[0])], []),
    ),
    "AWAC": Case(
        "AWAC",
        AWAC,
        theirs_of(AWAC),
        CRITIC | ACTOR,
        "theirs has tanh of the mean, ours (as CORL) the mean itself; theirs draws the target's "
        "action from a squashed Gaussian and counts its entropy, ours from the policy: both undone "
        "in theirs; theirs normalises the weights over the batch and sums, ours clips them (none "
        "here) and averages: a factor, mean weight / batch; the log standard deviation as in IQL",
        draws=lambda ours: ([_one(ours[0]), _several(ours[1])], []),
        factor=lambda metrics: {"actor": metrics["actor/weight_mean"] / BATCH},
        log_std_range=(-6.0, 0.0),
    ),
    "BC": Case("BC", BC, theirs_of(BC), {"actor": ("actor/loss", "loss")}, "no difference"),
    "BC, gaussian": Case(
        "IQL",
        replace(BC, policy="gaussian"),
        {"weight_temp": 0.0, "actor_learning_rate": BC.learning_rate},
        ACTOR,
        "their BC of a Gaussian squares samples; the likelihood is that of their IQL with β = 0",
        log_std_range=(-5.0, 2.0),
    ),
    "BC, discrete": Case(
        "DiscreteBC",
        BC,
        theirs_of(BC) | {"beta": 0.0},
        {"actor": ("actor/loss", "loss")},
        "their penalty on logits is off",
        discrete=True,
    ),
}


# --- One update: comparing --------------------------------------------------------------------


def compare_updates(oracle_python: str) -> dict[str, Any]:
    """Return the differences of every case, and the versions of the packages."""
    rows, versions = [], {}
    jax.config.update("jax_enable_x64", True)
    for title, case in CASES.items():
        ours, given = one_update(case)
        theirs = call(oracle_python, "update", given)
        versions = json.loads(str(theirs["versions"]))
        for quantity, difference in differences(case, ours, theirs).items():
            agrees = difference <= TOLERANCE
            row = {"algorithm": title, "theirs": case.theirs, "quantity": quantity}
            rows.append(row | {"difference": difference, "agrees": agrees})
    made_with = {"ours": environment(), "theirs": versions}
    jax.config.update("jax_enable_x64", False)
    notes = {title: case.note for title, case in CASES.items()}
    return {"tolerance": TOLERANCE, "made_with": made_with, "rows": rows, "notes": notes}


class Ours(NamedTuple):
    """What one of our updates did; trees have the networks' names at the top."""

    before: dict[str, Any]
    after: dict[str, Any]
    gradients: dict[str, Any]
    metrics: dict[str, float]
    factor: dict[str, float]


def one_update(case: Case) -> tuple[Ours, Arrays]:
    """Return what our update of random weights does, and what the other side is to be given."""
    config, algorithm = case.config, ALGORITHMS[case.config.name]
    action = Discrete(ACTIONS) if case.discrete else Box((ACTIONS,))
    spec, rng = Spec(Box((OBSERVATIONS,)), action), np.random.default_rng(0)
    batch = random_batch(spec, rng)
    state = algorithm.init(config, spec, jax.random.key(0))
    state = random_weights(state, rng).replace(
        hyper={name: jnp.float64(getattr(config, name)) for name in state.hyper}
    )
    if hasattr(state, "updates"):  # the actor's step is due in this one
        state = state.replace(updates=jnp.int32(config.policy_delay - 1))
    before = networks_of(state)
    with recorded_draws(case.silent) as draws:
        state, metrics = algorithm.update(config, spec, state, batch)
    metrics = {name: float(value) for name, value in metrics.items()}
    optimizers = {"actor": state.opt_state} if config.name == "bc" else state.opt_state
    gradients = {name: first_moment(opt) for name, opt in optimizers.items() if name in before}
    factor = {name: 1.0 for name in gradients} | case.factor(metrics)
    normals, uniforms = case.draws(draws)
    settings = {
        "learner": case.theirs,
        "hidden": HIDDEN,
        "actions": ACTIONS,
        "options": case.options,
        "hold": case.hold,
        "eps": {name: EPS / value for name, value in factor.items()},
    }
    step = jax.tree.map(lambda x: np.asarray(x)[0], batch.step)
    given = {
        "settings": np.array(json.dumps(settings)),
        "batch/obs": step.obs,
        "batch/next_obs": step.next_obs,
        "batch/action": step.action,
        "batch/reward": step.reward,
        "batch/terminated": step.terminated.astype(float),
    }
    given |= {f"weight/{k}": np.asarray(v) for k, v in to_theirs(case, before).items()}
    given |= {f"normal/{i}": x for i, x in enumerate(normals)}
    given |= {f"uniform/{i}": x for i, x in enumerate(uniforms)}
    return Ours(before, networks_of(state), gradients, metrics, factor), given


def random_batch(spec: Spec, rng: np.random.Generator) -> Trajectory:
    """Return a batch of single steps, in float64."""
    shape = (1, BATCH)

    def normal(*inner: int) -> jax.Array:
        return jnp.asarray(rng.normal(size=(*shape, *inner)))

    if isinstance(spec.action, Discrete):
        action = jnp.asarray(rng.integers(spec.action.n, size=shape))
    else:
        action = jnp.asarray(rng.uniform(-1, 1, (*shape, *spec.action.shape)))
    step = Transition(
        obs=normal(OBSERVATIONS),
        action=action,
        reward=normal(),
        next_obs=normal(OBSERVATIONS),
        terminated=jnp.asarray(rng.random(shape) < 0.25),
        truncated=jnp.zeros(shape, bool),
        extras={"source": jnp.zeros(shape, jnp.int8)},
    )
    yes = jnp.ones(shape, bool)
    before = Previous(zeros(spec.action, (BATCH,)), jnp.zeros(BATCH))
    return Trajectory(step, ~yes, yes, yes, None, before)


def random_weights(state: Any, rng: np.random.Generator) -> Any:
    """Return a state with random weights of every network and its target, in float64."""

    def draw(path: Any, x: jax.Array) -> jax.Array:
        name = jax.tree_util.keystr(path[-1:], simple=True)
        if name == "kernel":
            return jnp.asarray(rng.normal(size=x.shape) / math.sqrt(x.shape[-2]))
        center = {"log_std": -1.0, "scale": 1.0, "offset": -0.5}.get(name, 0.0)
        return jnp.asarray(center + 0.2 * rng.normal(size=x.shape))

    def wide(x: jax.Array) -> jax.Array:
        return x.astype(jnp.float64) if jnp.issubdtype(x.dtype, jnp.floating) else x

    state = state.replace(opt_state=jax.tree.map(wide, state.opt_state))
    for name in ("params", "critic", "target", "value", "log_multiplier"):
        if hasattr(state, name):
            drawn = jax.tree.map_with_path(draw, getattr(state, name))
            state = state.replace(**{name: drawn})
    if hasattr(state, "log_alpha"):
        state = state.replace(log_alpha=jnp.log(jnp.float64(TEMPERATURE)))
    return state


def networks_of(state: Any) -> dict[str, Any]:
    """Return everything learnt, targets included, by name."""
    found = {"actor": state.params["actor"]}
    target = getattr(state, "target", None)
    if isinstance(target, dict) and "actor" in target:
        found |= {"target_actor": target["actor"], "target": target["critic"]}
    elif target is not None:
        found["target"] = target
    names = {"critic": "critic", "value": "value", "temperature": "log_alpha"}
    found |= {us: getattr(state, name) for us, name in names.items() if hasattr(state, name)}
    if hasattr(state, "log_multiplier"):
        found["multiplier"] = state.log_multiplier
    return found


def first_moment(opt_state: Any) -> Any:
    """Return the gradient of an optimiser's first step: Adam's first moment over 1 - b1."""
    adam = next(part for part in opt_state if hasattr(part, "mu"))
    return jax.tree.map(lambda m: m / (1 - B1), adam.mu)


@contextmanager
def recorded_draws(silent: bool) -> Generator[Draws]:
    """Collect every random number that is drawn; with `silent` the first draw is 0."""
    draws: Draws = []
    drawn = {name: getattr(jax.random, name) for name in ("normal", "uniform")}

    def recording(draw: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
        def record(*args: Any, **options: Any) -> jax.Array:
            numbers = draw(*args, **options) * (0 if silent and not draws else 1)
            draws.append(np.asarray(numbers))
            return numbers

        return record

    for name, draw in drawn.items():
        setattr(jax.random, name, recording(draw))
    try:
        yield draws
    finally:
        for name, draw in drawn.items():
            setattr(jax.random, name, draw)


def to_theirs(case: Case, networks: dict[str, Any]) -> dict[str, jax.Array]:
    """Return weights under the names and in the layout of oracle_torch.py.

    `<network>.<i>.weight` is the transposed kernel of dense layer i, counted from the observation;
    a critic has its number between. Our last layer of a squashed Gaussian is their two, mean and
    log standard deviation; CQL's scale and offset go into the second. Differentiable, so that
    `jax.vjp` brings their gradients into our layout.
    """
    named: dict[str, jax.Array] = {}

    def put(prefix: str, layers: list[tuple[jax.Array, jax.Array]]) -> None:
        for i, (kernel, bias) in enumerate(layers):
            named[f"{prefix}.{i}.weight"], named[f"{prefix}.{i}.bias"] = kernel.T, bias

    for name, tree in networks.items():
        if name in ("temperature", "multiplier"):
            if name == "temperature" or case.config.lagrange_gap is not None:
                named[name] = tree.reshape((1,) if case.theirs == "SAC" else (1, 1))
        elif name in ("critic", "target"):
            members = tree["params"]["values"]["member"]["value"]
            for k in range(case.config.critics if hasattr(case.config, "critics") else 2):
                put(f"{name}.{k}", layers_of(jax.tree.map(lambda x, k=k: x[k], members)))
        elif name == "value":
            put(name, layers_of(tree["params"]["head"]["value"]))
        else:
            head = tree["params"]["head"]
            layers = layers_of(next(x for x in head.values() if isinstance(x, dict)))
            if "mean_std" in head:
                (mean_kernel, kernel), (mean_bias, bias) = (jnp.split(x, 2, -1) for x in layers[-1])
                scale, offset = head.get("scale", 1.0), head.get("offset", 0.0)
                layers[-1:] = [(mean_kernel, mean_bias), (scale * kernel, scale * bias + offset)]
            if "log_std" in head:
                low, high = case.log_std_range or (0.0, 1.0)
                share = (head["log_std"] - low) / (high - low)
                named[f"{name}.log_std"] = (jnp.log(share) - jnp.log1p(-share))[None]
            put(name, layers)
    return named


def layers_of(network: dict[str, Any]) -> list[tuple[jax.Array, jax.Array]]:
    """Return the (kernel, bias) of our dense network, first to last."""
    names = [f"hidden_{i}" for i in range(len(network) - 1)] + ["out"]
    return [(network[name]["kernel"], network[name]["bias"]) for name in names]


def differences(case: Case, ours: Ours, theirs: Arrays) -> dict[str, float]:
    """Return the relative difference of every quantity that both sides have."""
    found: dict[str, float] = {}
    for name, (us, them) in case.losses.items():
        theirs_scaled = ours.factor[name] * theirs[f"loss/{them}"]
        found[f"{name} loss"] = relative(ours.metrics[us], theirs_scaled)
    start, to_ours = jax.vjp(lambda trees: to_theirs(case, trees), ours.before)
    pulled = to_ours(
        {name: jnp.asarray(theirs.get(f"gradient/{name}", np.zeros_like(x)))
         for name, x in start.items()}
    )[0]  # fmt: skip
    for name, gradient in ours.gradients.items():
        if name != "multiplier" or case.config.lagrange_gap is not None:
            scaled = jax.tree.map(lambda g, name=name: ours.factor[name] * g, pulled[name])
            found[f"{name} gradient"] = relative(gradient, scaled)
    if case.hold:
        return found
    end = to_theirs(case, ours.after)
    for network in ours.after:
        names = [name for name in start if name.split(".")[0] == network]
        names = [name for name in names if not name.endswith("log_std")]  # steps where it is mapped
        our_step = [end[name] - start[name] for name in names]
        their_step = [theirs[f"weight/{name}"] - start[name] for name in names]
        found[f"{network} step"] = relative(our_step, their_step)
    return found


def relative(ours: Any, theirs: Any) -> float:
    """Return the largest |ours - theirs| of an array over its largest |theirs|, at the worst."""
    worst = 0.0
    for x, y in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        x, y = np.asarray(x), np.asarray(y)
        assert x.shape == y.shape, (x.shape, y.shape)
        apart, size = np.abs(x - y).max(), np.abs(y).max()
        if apart > 0 or not np.isfinite(apart):
            worst = max(worst, float(apart / size) if size > 0 else math.inf)
    return worst


def call(oracle_python: str, command: str, given: Arrays, *options: str) -> Arrays:
    """Return what the other half makes of something."""
    with tempfile.TemporaryDirectory() as folder:
        before, after = Path(folder) / "given.npz", Path(folder) / "result.npz"
        np.savez(before, **given)
        run_other_half(oracle_python, command, before, after, *options)
        return read(after)


def read(path: Path) -> Arrays:
    with np.load(path, allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


def run_other_half(oracle_python: str, *arguments: Any) -> None:
    script = Path(__file__).with_name("oracle_torch.py")
    done = subprocess.run(
        [oracle_python, str(script), *map(str, arguments)], stderr=subprocess.PIPE, text=True
    )
    if done.returncode:
        raise SystemExit(f"the other half failed:\n{done.stderr[-4000:]}")


def updates_table(result: dict[str, Any]) -> str:
    """Return the differences as Markdown, and what makes the two sides comparable."""
    lines = [
        "| ours | theirs | quantity | largest relative difference | within "
        f"{result['tolerance']:g} |",
        "|---|---|---|---|---|",
    ]
    for row in result["rows"]:
        agrees = "yes" if row["agrees"] else "**no**"
        package = "SB3" if row["theirs"] == "SAC" else "d3rlpy"
        lines.append(
            f"| {row['algorithm']} | {package} {row['theirs']} | {row['quantity']} "
            f"| {row['difference']:.1e} | {agrees} |"
        )
    lines += ["", "How they differ by design, and what was done about it:", ""]
    lines += [f"- {title}: {note}." for title, note in result["notes"].items()]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--oracle-python", required=True, help="Python that has the other packages")
    parser.add_argument("--out", type=Path, default=Path("results/oracles"))
    args = parser.parse_args()
    result = compare_updates(args.oracle_python)
    table = updates_table(result)
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "updates.json").write_text(json.dumps(result, indent=1) + "\n")
    (args.out / "updates.md").write_text(table)
    print(table)


if __name__ == "__main__":
    main()
