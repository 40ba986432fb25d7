"""The other half of oracles.py: learners of Stable-Baselines3 and d3rlpy, run in their own Python.

    python scripts/reproduce/oracle_torch.py update GIVEN.npz RESULT.npz
    python scripts/reproduce/oracle_torch.py learn GIVEN.npz RESULT.npz --seed S --updates N

oracles.py writes GIVEN, runs this file and reads RESULT; nothing here knows of JAX. It needs torch,
d3rlpy and stable-baselines3, and nothing of rlssm.
"""

import argparse
import inspect
import json
import platform
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import d3rlpy  # ty: ignore[import-not-found]
import numpy as np
import torch  # ty: ignore[import-not-found]
from torch import nn  # ty: ignore[import-not-found]

Arrays = dict[str, Any]  # NumPy's
DEVICE = "cpu:0"


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
    modules = {name: getattr(impl.modules, name) for name in impl.modules.__dataclass_fields__}
    for module in modules.values():
        if isinstance(module, nn.Module):
            module.double()
    if settings["learner"] == "AWAC":
        _awac_as_published(modules)
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


def _impl(settings: dict[str, Any], observations: int, actions: int) -> Any:
    """Return a learner by the name of its class in d3rlpy, built."""
    config = getattr(d3rlpy.algos, f"{settings['learner']}Config")
    encoder = d3rlpy.models.VectorEncoderFactory(hidden_units=list(settings["hidden"]))
    fields = inspect.signature(config).parameters
    options = {name: encoder for name in fields if name.endswith("encoder_factory")}
    if settings.get("decay"):
        schedule = d3rlpy.optimizers.CosineAnnealingLRFactory(T_max=settings["decay"])
        adam = d3rlpy.optimizers.AdamFactory(lr_scheduler_factory=schedule)
        options["actor_optim_factory"] = adam
    learner = config(**options, **settings["options"]).create(device=DEVICE)
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
        device=DEVICE,
    )


# --- Learning ---------------------------------------------------------------------------------


def learn(given: Arrays, seed: int, updates: int) -> Arrays:
    """Return the policy that a learner of d3rlpy has after some updates, as layers, and its time.

    GIVEN holds `settings` (JSON) and the transitions `obs`, `action`, `reward`, `next_obs`,
    `terminated`, observations standardised. Batches are uniform over them, drawn here: d3rlpy's
    own buffer builds them row by row in Python, and never draws the last step of an episode that
    did not terminate.
    """
    settings = json.loads(str(given["settings"]))
    torch.set_num_threads(1)
    d3rlpy.seed(seed)
    rows = [
        torch.tensor(given[name], dtype=torch.float32)
        for name in ("obs", "action", "reward", "next_obs", "terminated")
    ]
    impl = _impl(settings, rows[0].shape[-1], rows[1].shape[-1])
    began = time.perf_counter()
    for i in range(updates):
        chosen = torch.randint(len(rows[0]), (settings["batch"],))
        impl.update(_batch(*(x[chosen] for x in rows)), i)
    seconds = time.perf_counter() - began
    result = {"seconds": np.array(seconds)}
    for i, layer in enumerate(_dense(impl.policy)):
        result[f"kernel_{i}"] = layer.weight.detach().numpy().T
        result[f"bias_{i}"] = layer.bias.detach().numpy()
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("command", choices=("update", "learn"))
    parser.add_argument("given", type=Path)
    parser.add_argument("result", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--updates", type=int, default=100_000)
    args = parser.parse_args()
    with np.load(args.given, allow_pickle=False) as file:
        given = {name: file[name] for name in file.files}
    result = update(given) if args.command == "update" else learn(given, args.seed, args.updates)
    packages = ("torch", "d3rlpy", "stable-baselines3", "gymnasium", "numpy")
    versions = {"python": platform.python_version()} | {name: version(name) for name in packages}
    result["versions"] = np.array(json.dumps(versions))
    partial = args.result.with_suffix(".partial.npz")
    np.savez(partial, **result)
    partial.replace(args.result)


if __name__ == "__main__":
    main()
