"""The other half of oracles*.py: learners of Stable-Baselines3 and d3rlpy, run in their own Python.

    python scripts/reproduce/oracle_torch.py update GIVEN.npz RESULT.npz
    python scripts/reproduce/oracle_torch.py learn GIVEN.npz FOLDER --seeds S ... --updates N
    python scripts/reproduce/oracle_torch.py check --device cuda:0

They write GIVEN, run this file and read RESULT or the policies FOLDER/d3rlpy-S.npz;
nothing here knows of JAX. It needs torch and d3rlpy, an update of SAC stable-baselines3 too, and
nothing of rlssm.
"""

import argparse
import inspect
import json
import math
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import d3rlpy  # ty: ignore[import-not-found]
import numpy as np
import torch  # ty: ignore[import-not-found]
from torch import nn  # ty: ignore[import-not-found]

Arrays = dict[str, Any]  # NumPy's


# --- One update -------------------------------------------------------------------------------


def update(given: Arrays) -> Arrays:
    """Return losses, gradients, and all weights after one update of the given weights.

    GIVEN holds `settings` (JSON), `batch/<field>`, `weight/<name>`, and the random numbers in the
    order they are used in, `normal/<i>` and `uniform/<i>`. A gradient is what the optimiser was
    handed: Adam's first moment over 1 - b1 after its first step.
    """
    settings = json.loads(str(given["settings"]))
    torch.set_default_dtype(torch.float64)
    # Both packages cast to float32 in places, by this method.
    torch.Tensor.float = torch.Tensor.double
    weights, optimizers, step = (_sb3 if settings["learner"] == "SAC" else _d3rlpy)(settings, given)
    for name, value in _part(given, "weight").items():
        weights[name].data.copy_(torch.tensor(value))
    for name, optimizer in optimizers.items():
        for group in optimizer.param_groups:
            group["eps"] = settings["eps"].get(name, group["eps"])
            if settings["hold"]:
                group["lr"] = 0.0
    normals, uniforms = _replayed(given)
    losses = step()
    assert next(normals, None) is None and next(uniforms, None) is None, "draws were left over"
    moments = {
        parameter: state["exp_avg"] / (1 - group["betas"][0])
        for optimizer in optimizers.values()
        for group in optimizer.param_groups
        for parameter, state in ((p, optimizer.state[p]) for p in group["params"])
        if state
    }
    result = {f"loss/{name}": np.array(value) for name, value in losses.items()}
    for name, parameter in weights.items():
        result[f"weight/{name}"] = parameter.detach().numpy()
        if parameter in moments:
            result[f"gradient/{name}"] = moments[parameter].numpy()
    return result


def _part(given: Arrays, folder: str) -> Arrays:
    prefix = f"{folder}/"
    return {name.removeprefix(prefix): x for name, x in given.items() if name.startswith(prefix)}


def _replayed(given: Arrays) -> tuple[Iterator[np.ndarray], Iterator[np.ndarray]]:
    """Make torch hand out the given random numbers, each where its shape is asked for."""
    normals, uniforms = (iter(_part(given, kind).values()) for kind in ("normal", "uniform"))

    def take(numbers: Iterator[np.ndarray], shape: Any) -> torch.Tensor:
        drawn = torch.tensor(next(numbers))
        assert drawn.shape == torch.Size(shape), (drawn.shape, shape)
        return drawn

    torch.distributions.normal._standard_normal = lambda shape, *_, **__: take(normals, shape)
    torch.randn = lambda shape, **_: take(normals, shape)
    torch.Tensor.uniform_ = lambda self, *_: self.copy_(take(uniforms, self.shape))
    return normals, uniforms


def _dense(module: nn.Module) -> list[nn.Linear]:
    return [layer for layer in module.modules() if isinstance(layer, nn.Linear)]


def _layers(prefix: str, module: nn.Module) -> dict[str, nn.Parameter]:
    """Return the parameters of a network by name, its dense layers numbered as it defines them."""
    named = {}
    for i, layer in enumerate(_dense(module)):
        named |= {f"{prefix}.{i}.weight": layer.weight, f"{prefix}.{i}.bias": layer.bias}
    if isinstance(getattr(module, "_logstd", None), nn.Parameter):
        named[f"{prefix}.log_std"] = module._logstd
    return named


def _members(prefix: str, modules: Any) -> dict[str, nn.Parameter]:
    named = {}
    for k, module in enumerate(modules):
        named |= _layers(f"{prefix}.{k}", module)
    return named


def _sb3(settings: dict[str, Any], given: Arrays) -> tuple[dict, dict, Any]:
    """Return Stable-Baselines3's SAC: parameters, optimisers, and a function that updates."""
    import gymnasium
    from stable_baselines3 import SAC  # ty: ignore[import-not-found]
    from stable_baselines3.common.buffers import (  # ty: ignore[import-not-found]
        ReplayBufferSamples,
    )
    from stable_baselines3.common.logger import Logger  # ty: ignore[import-not-found]

    def space(size: int, bound: float) -> Any:
        return gymnasium.spaces.Box(-bound, bound, (size,))

    batch = {name: torch.tensor(x) for name, x in _part(given, "batch").items()}
    env = gymnasium.Env()
    env.observation_space = space(batch["obs"].shape[-1], np.inf)
    env.action_space = space(batch["action"].shape[-1], 1.0)
    hidden = list(settings["hidden"])
    options = settings["options"] | {"policy_kwargs": {"net_arch": hidden}, "device": "cpu"}
    model = SAC("MlpPolicy", env, buffer_size=1, **options)
    model.actor.action_dist.epsilon = 0.0  # of log(1 - a² + epsilon)
    samples = ReplayBufferSamples(
        observations=batch["obs"],
        actions=batch["action"],
        next_observations=batch["next_obs"],
        dones=batch["terminated"][:, None],
        rewards=batch["reward"][:, None],
    )
    model.replay_buffer.sample = lambda *_, **__: samples
    model.set_logger(Logger(folder=None, output_formats=[]))
    weights = {
        **_layers("actor", model.actor),
        **_members("critic", model.critic.q_networks),
        **_members("target", model.critic_target.q_networks),
        "temperature": model.log_ent_coef,
    }
    optimizers = {
        "actor": model.actor.optimizer,
        "critic": model.critic.optimizer,
        "temperature": model.ent_coef_optimizer,
    }

    def step() -> dict[str, float]:
        model.train(1, len(batch["obs"]))
        return model.logger.name_to_value

    return weights, optimizers, step


def _d3rlpy(settings: dict[str, Any], given: Arrays) -> tuple[dict, dict, Any]:
    """Return a learner of d3rlpy: parameters, optimisers, and a function that updates."""
    batch = {name: torch.tensor(x) for name, x in _part(given, "batch").items()}
    discrete = settings["learner"].startswith("Discrete")
    actions = settings["actions"] if discrete else batch["action"].shape[-1]
    impl = _impl(settings, batch["obs"].shape[-1], actions)
    modules = _modules(impl)
    for module in modules.values():
        if isinstance(module, nn.Module):
            module.double()
    if settings["learner"] == "AWAC":
        _awac_as_published(modules)
    weights = _weights(modules)
    wrappers = {
        "actor": modules.get("actor_optim") or modules.get("optim"),
        "critic": modules.get("critic_optim"),
        "temperature": modules.get("temp_optim"),
        "multiplier": modules.get("alpha_optim"),
    }
    optimizers = {name: wrapper.optim for name, wrapper in wrappers.items() if wrapper}
    rows = _batch(batch["obs"], batch["action"], batch["reward"], batch["next_obs"],
                  batch["terminated"])  # fmt: skip
    return weights, optimizers, lambda: impl.update(rows, 0)


def _modules(impl: Any) -> dict[str, Any]:
    return {name: getattr(impl.modules, name) for name in impl.modules.__dataclass_fields__}


def _weights(modules: dict[str, Any]) -> dict[str, nn.Parameter]:
    """Return everything learnt, targets included, under the names of oracles.py."""
    weights: dict[str, nn.Parameter] = {}
    for ours, theirs in (
        ("actor", "policy"), ("actor", "imitator"), ("target_actor", "targ_policy"),
        ("value", "value_func"),
    ):  # fmt: skip
        if theirs in modules:
            weights |= _layers(ours, modules[theirs])
    for ours, theirs in (("critic", "q_funcs"), ("target", "targ_q_funcs")):
        weights |= _members(ours, modules.get(theirs, ()))
    for ours, theirs in (("temperature", "log_temp"), ("multiplier", "log_alpha")):
        if theirs in modules:
            weights[ours] = next(modules[theirs].parameters())
    return weights


def _awac_as_published(modules: dict[str, Any]) -> None:
    """Undo d3rlpy's own choices in AWAC: see its case in oracles.py."""
    from d3rlpy.algos.qlearning.torch import sac_impl  # ty: ignore[import-not-found]

    class Unsquashed(type(modules["policy"])):
        def forward(self, *inputs: Any) -> Any:
            action = super().forward(*inputs)
            return action._replace(squashed_mu=action.mu)

    modules["policy"].__class__ = Unsquashed
    modules["log_temp"]._parameter.data.fill_(-torch.inf)
    gaussian = d3rlpy.models.torch.build_gaussian_distribution
    sac_impl.build_squashed_gaussian_distribution = gaussian


def _impl(settings: dict[str, Any], observations: int, actions: int, device: str = "cpu:0") -> Any:
    """Return a learner by the name of its class in d3rlpy, built."""
    config = getattr(d3rlpy.algos, f"{settings['learner']}Config")
    encoder = d3rlpy.models.VectorEncoderFactory(hidden_units=list(settings["hidden"]))
    fields = inspect.signature(config).parameters
    options = {name: encoder for name in fields if name.endswith("encoder_factory")}
    if settings.get("decay"):
        schedule = d3rlpy.optimizers.CosineAnnealingLRFactory(T_max=settings["decay"])
        adam = d3rlpy.optimizers.AdamFactory(lr_scheduler_factory=schedule)
        options["actor_optim_factory"] = adam
    learner = config(**options, **settings["options"]).create(device=device)
    learner.create_impl((observations,), actions)
    return learner.impl


def _batch(obs: Any, action: Any, reward: Any, next_obs: Any, terminated: Any) -> Any:
    action = action if action.ndim == 2 else action[:, None]
    reward, terminated = reward[:, None], terminated[:, None]
    return d3rlpy.torch_utility.TorchMiniBatch(
        observations=obs,
        actions=action,
        rewards=reward,
        next_observations=next_obs,
        next_actions=action,
        returns_to_go=torch.zeros_like(reward),
        terminals=terminated,
        intervals=torch.ones_like(reward),
        device=str(obs.device),
    )


# --- Learning ---------------------------------------------------------------------------------

TENSOR = torch.tensor
RATED = 500  # rounds after which the pace is told
ROUND = 2  # updates of each learner in one CUDA graph: TD3+BC's actor moves in every second


def learn(given: Arrays, seeds: Sequence[int], updates: int, device: str) -> dict[int, Arrays]:
    """Return the policy that a learner of d3rlpy has after some updates, as layers, per seed.

    GIVEN holds `settings` (JSON), the transitions `obs`, `action`, `reward`, `next_obs`,
    `terminated`, observations standardised, and the weights to start from,
    `weight/<seed>/<name>`. Batches are uniform over the transitions, drawn here: d3rlpy's own
    buffer builds them row by row in Python, and never draws the last step of an episode that did
    not terminate. `seconds` in the result is the time that all seeds took together.
    """
    settings = json.loads(str(given["settings"]))
    d3rlpy.seed(seeds[0])
    rows = [
        torch.tensor(given[name], dtype=torch.float32, device=device)
        for name in ("obs", "action", "reward", "next_obs", "terminated")
    ]
    impls = [_starting(settings, _part(given, f"weight/{seed}"), rows, device) for seed in seeds]

    def update(impl: Any, i: int) -> None:
        chosen = torch.randint(len(rows[0]), (settings["batch"],), device=device)
        impl.update(_batch(*(x[chosen] for x in rows)), i)

    began = time.perf_counter()
    if device.startswith("cuda"):
        with torch.cuda.device(device):
            _update_on_gpu(impls, update, updates, settings["decay"])
    else:
        for i in range(updates):
            for impl in impls:
                update(impl, i)
    seconds = time.perf_counter() - began
    results: dict[int, Arrays] = {}
    for seed, impl in zip(seeds, impls, strict=True):
        results[seed] = {"seconds": np.array(seconds)}
        for i, layer in enumerate(_dense(impl.policy)):
            results[seed][f"kernel_{i}"] = layer.weight.detach().cpu().numpy().T
            results[seed][f"bias_{i}"] = layer.bias.detach().cpu().numpy()
    return results


def _starting(settings: dict[str, Any], start: Arrays, rows: list, device: str) -> Any:
    """Return a learner with the given weights."""
    impl = _impl(settings, rows[0].shape[-1], rows[1].shape[-1], device)
    weights = _weights(_modules(impl))
    assert weights.keys() == start.keys(), weights.keys() ^ start.keys()
    for name, value in start.items():
        assert weights[name].shape == value.shape, (name, weights[name].shape, value.shape)
        weights[name].data.copy_(torch.tensor(value))
    return impl


def _update_on_gpu(
    impls: list, update: Callable[[Any, int], None], updates: int, decay: int | None
) -> None:
    """Make updates of several learners, each a branch of one CUDA graph that is played again.

    A learner's many small kernels leave a GPU idle nearly all the time when Python launches them
    one by one. The mathematics is d3rlpy's; what would have made it wait for the host is undone.
    """
    assert updates % ROUND == 0, f"updates must be a multiple of {ROUND}"
    _without_host(impls, decay)
    streams = [torch.cuda.Stream() for _ in impls]

    def one_round() -> None:
        main = torch.cuda.current_stream()
        for impl, stream in zip(impls, streams, strict=True):
            stream.wait_stream(main)
            with torch.cuda.stream(stream):
                for i in range(ROUND):
                    update(impl, i)
        for stream in streams:
            main.wait_stream(stream)

    warmup = min(2, updates // ROUND)  # rounds as Python runs them, which allocate what stays
    for _ in range(warmup):
        one_round()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        one_round()
    began = time.perf_counter()
    for played in range(1, updates // ROUND - warmup + 1):
        graph.replay()
        if played == RATED:
            torch.cuda.synchronize()
            rate = RATED * ROUND / (time.perf_counter() - began)
            print(f"{len(impls)} learners, {rate:.0f} updates/s of each", flush=True)
    torch.cuda.synchronize()


def _without_host(impls: list, decay: int | None) -> None:
    """Keep d3rlpy from reading losses, writing constants and decaying step sizes on the host."""
    from d3rlpy.algos.qlearning.torch import ddpg_impl  # ty: ignore[import-not-found]

    ddpg_impl.asdict_as_float = lambda losses: {}
    torch.distributions.Distribution.set_default_validate_args(False)
    torch.tensor = _made_where_it_is_used
    for impl in impls:
        for wrapper in (impl.modules.actor_optim, impl.modules.critic_optim):
            for group in wrapper.optim.param_groups:
                group["capturable"] = True
        if decay is not None:
            impl.modules.actor_optim._lr_scheduler = Cosine(impl.modules.actor_optim.optim, decay)


def _made_where_it_is_used(value: Any, **options: Any) -> torch.Tensor:
    """Return `torch.tensor` of a value, a single number without a copy from the host."""
    return (
        torch.full((), value, **options) if isinstance(value, float) else TENSOR(value, **options)
    )


class Cosine:
    """`CosineAnnealingLR` down to 0 in its closed form, with the step size on the device."""

    def __init__(self, optimizer: Any, steps: int) -> None:
        [self.group] = optimizer.param_groups
        self.first, self.steps = self.group["initial_lr"], steps
        device = self.group["params"][0].device
        self.done = torch.zeros((), device=device)
        self.group["lr"] = torch.full((), self.first, device=device)

    def step(self) -> None:
        self.done.add_(1)
        self.group["lr"].copy_(self.first * (1 + torch.cos(self.done * (math.pi / self.steps))) / 2)


def check(device: str) -> None:
    """Fail unless learners come out as they do on a CPU, where nothing is left to chance.

    Every batch is 256 times the same transition, and TD3+BC's target has no noise. Two seeds must
    end as near to the CPU's as a twentieth of the way they went, no less than 2e-3: rounding keeps
    them apart by a hundredth, a wrong learning rate or a stale batch by far more.
    """
    rng = np.random.default_rng(0)
    for learner, decay, options in (
        ("IQL", 100, {}),
        ("TD3PlusBC", None, {"target_smoothing_sigma": 0.0}),
    ):
        settings = {"learner": learner, "hidden": [32, 32], "options": options, "batch": 256}
        given: Arrays = {
            "settings": np.array(json.dumps(settings | {"decay": decay})),
            "obs": rng.normal(size=(1, 5)),
            "action": rng.uniform(-1, 1, (1, 3)),
            "reward": np.ones(1),
            "next_obs": rng.normal(size=(1, 5)),
            "terminated": np.zeros(1),
        }
        for seed in (0, 1):
            for name, x in _weights(_modules(_impl(settings, 5, 3))).items():
                given[f"weight/{seed}/{name}"] = x.detach().numpy().copy()
        plain, graph = (learn(given, (0, 1), 100, where) for where in ("cpu:0", device))
        for seed, policy in plain.items():
            apart = max(np.abs(x - graph[seed][k]).max() for k, x in policy.items() if "_" in k)
            moved = np.abs(policy["kernel_0"].T - given[f"weight/{seed}/actor.0.weight"]).max()
            print(f"{learner}, seed {seed}: moved by {moved:.1e}, apart by {apart:.1e}", flush=True)
            assert apart < moved / 20 and moved > 2e-3, (learner, seed, apart, moved)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("command", choices=("update", "learn", "check"))
    parser.add_argument("given", type=Path, nargs="?")
    parser.add_argument("result", type=Path, nargs="?")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--updates", type=int, default=100_000)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu:0", help="cpu:0, cuda:0, cuda:1, ...")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.command == "check":
        return check(args.device)
    if args.result is None:
        parser.error(f"{args.command} needs GIVEN and RESULT")
    with np.load(args.given, allow_pickle=False) as file:
        given = {name: file[name] for name in file.files}
    if args.command == "update":
        return save(args.result, update(given))
    for seed, result in learn(given, args.seeds, args.updates, args.device).items():
        save(args.result / f"d3rlpy-{seed}.npz", result)


def save(path: Path, result: Arrays) -> None:
    """Write arrays and the versions of what made them, the whole file or none."""
    versions = {"python": platform.python_version()}
    for name in ("torch", "d3rlpy", "stable-baselines3", "gymnasium", "numpy"):
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            assert name == "stable-baselines3", name
    partial = path.with_suffix(".partial.npz")
    np.savez(partial, **result, versions=np.array(json.dumps(versions)))
    partial.replace(path)


if __name__ == "__main__":
    main()
