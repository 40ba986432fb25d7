"""PPO's losses against loops written from the equations, and its order of business."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlssm.algorithms import ppo
from rlssm.algorithms.ppo import PPOConfig
from rlssm.errors import UserError
from rlssm.nn.cores import GRUConfig, NoneConfig, S5Config
from rlssm.nn.mlp import MLPConfig
from rlssm.nn.torso import TorsoConfig
from rlssm.types import Box, Discrete, Inputs, Previous, Spec

T, B = 5, 3


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def batch(rng):
    """Return the fields of a `Batch` that the losses read, with two steps masked out."""
    mask = np.ones((T, B), bool)
    mask[3:, 1] = False
    draw = lambda: rng.normal(size=(T, B)).astype(np.float32)  # noqa: E731
    return SimpleNamespace(log_prob=draw(), value=draw(), advantage=draw(), mask=mask)


def test_policy_loss_is_the_mean_clipped_surrogate(rng):
    data, log_prob, clip = batch(rng), rng.normal(size=(T, B)).astype(np.float32), 0.2
    terms, kl, clipped = [], [], []
    for t in range(T):
        for b in range(B):
            if not data.mask[t, b]:
                continue
            ratio = np.exp(log_prob[t, b] - data.log_prob[t, b])
            advantage = data.advantage[t, b]
            terms.append(min(ratio * advantage, np.clip(ratio, 1 - clip, 1 + clip) * advantage))
            kl.append(ratio - 1 - np.log(ratio))
            clipped.append(abs(ratio - 1) > clip)
    loss, metrics = ppo.policy_loss(jnp.asarray(log_prob), data, data.advantage, clip)
    assert loss == pytest.approx(-np.mean(terms), rel=1e-5)
    assert metrics["actor/approx_kl"] == pytest.approx(np.mean(kl), rel=1e-4)
    assert metrics["actor/clip_fraction"] == pytest.approx(np.mean(clipped))


@pytest.mark.parametrize("clip", [None, 0.3])
def test_value_loss_is_half_the_worse_squared_error(rng, clip):
    data, value = batch(rng), rng.normal(size=(T, B)).astype(np.float32)
    terms = []
    for t in range(T):
        for b in range(B):
            if not data.mask[t, b]:
                continue
            old, target = data.value[t, b], data.value[t, b] + data.advantage[t, b]
            error = (value[t, b] - target) ** 2
            if clip is not None:
                near = old + np.clip(value[t, b] - old, -clip, clip)
                error = max(error, (near - target) ** 2)
            terms.append(0.5 * error)
    assert ppo.value_loss(jnp.asarray(value), data, clip) == pytest.approx(np.mean(terms), rel=1e-5)


SPEC = Spec(obs=Box((3,)), action=Discrete(2), max_episode_steps=10)
SMALL = PPOConfig(
    core=NoneConfig(),
    torso=TorsoConfig(width=8, hidden=()),
    heads=MLPConfig((8,)),
    num_envs=B,
    rollout_length=T,
    minibatches=1,
    epochs=1,
    precision="highest",
)


def full_batch(config, state, rng):
    """Return a `Batch` of random experience."""
    obs = jnp.asarray(rng.normal(size=(T, B, 3)), jnp.float32)
    action = jnp.asarray(rng.integers(2, size=(T, B)), jnp.int32)
    previous = Previous(action, jnp.asarray(rng.normal(size=(T, B)), jnp.float32))
    first = jnp.asarray(rng.random((T, B)) < 0.3)
    data = batch(rng)
    return ppo.Batch(
        seen=Inputs(obs, previous, first),
        reset=first,
        mask=jnp.asarray(data.mask),
        sample=action,
        log_prob=jnp.asarray(data.log_prob),
        value=jnp.asarray(data.value),
        advantage=jnp.asarray(data.advantage),
        carry=ppo.networks(config, SPEC).initial_carry(B),
    )


def test_whole_loss_against_numpy(rng):
    config = SMALL
    state = ppo.init(config, SPEC, jax.random.key(0))
    data = full_batch(config, state, rng)
    hyper = state.hyper | {"entropy_coef": jnp.float32(0.1), "value_coef": jnp.float32(0.7)}
    loss, _ = ppo.loss(state.params, config, SPEC, hyper, data)

    _, policy, value = ppo.unroll(config, SPEC, state.params, data.seen, data.reset, data.carry)
    logits, mask = np.asarray(policy.logits, np.float64), np.asarray(data.mask)
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    chosen = np.take_along_axis(log_p, np.asarray(data.sample)[..., None], -1)[..., 0]
    advantage = np.asarray(data.advantage, np.float64)
    kept = advantage[mask]
    advantage = (advantage - kept.mean()) / (kept.std() + 1e-8)
    ratio = np.exp(chosen - np.asarray(data.log_prob))
    surrogate = np.minimum(ratio * advantage, np.clip(ratio, 0.8, 1.2) * advantage)[mask].mean()
    target = np.asarray(data.value + data.advantage)
    critic = 0.5 * ((np.asarray(value) - target) ** 2)[mask].mean()
    entropy = -(np.exp(log_p) * log_p).sum(-1)[mask].mean()
    assert loss == pytest.approx(-surrogate + 0.7 * critic - 0.1 * entropy, rel=1e-5)


def test_gradient_against_finite_differences(rng):
    with jax.enable_x64(True):
        config = SMALL
        to64 = lambda tree: jax.tree.map(  # noqa: E731
            lambda x: x.astype(jnp.float64) if x.dtype == jnp.float32 else x, tree
        )
        state = to64(ppo.init(config, SPEC, jax.random.key(1)))
        data = to64(full_batch(config, state, rng))
        # Near the old policy, so that no ratio sits on the clip's kink.
        _, policy, _ = ppo.unroll(config, SPEC, state.params, data.seen, data.reset, data.carry)
        data = data._replace(log_prob=policy.log_prob(data.sample) + 0.05)
        flat, unflatten = jax.flatten_util.ravel_pytree(state.params)
        f = jax.jit(lambda p: ppo.loss(unflatten(p), config, SPEC, state.hyper, data)[0])
        direction = jnp.asarray(rng.normal(size=flat.shape))
        step = 1e-6
        numeric = (f(flat + step * direction) - f(flat - step * direction)) / (2 * step)
        assert jax.grad(f)(flat) @ direction == pytest.approx(float(numeric), rel=1e-6)


def test_advantage_treats_a_time_limit_as_asked():
    step = SimpleNamespace(
        reward=jnp.ones((2, 1)),
        terminated=jnp.zeros((2, 1), bool),
        truncated=jnp.array([[False], [True]]),
        extras={"value": jnp.zeros((2, 1)), "next_value": jnp.array([[0.0], [10.0]])},
    )
    hyper = {"discount": 0.5, "gae_lambda": 1.0, "reward_scale": 1.0}
    bootstrapped = ppo.advantages(PPOConfig(), hyper, SimpleNamespace(step=step))
    np.testing.assert_allclose(bootstrapped[:, 0], [1 + 0.5 * 6, 1 + 0.5 * 10])
    as_death = ppo.advantages(
        PPOConfig(bootstrap_truncation=False), hyper, SimpleNamespace(step=step)
    )
    np.testing.assert_allclose(as_death[:, 0], [1.5, 1.0])


def test_learning_rate_falls_linearly_to_zero():
    config = PPOConfig(num_envs=4, minibatches=1, rollout_length=5, anneal_steps=200)
    params = {"kernel": jnp.ones(3)}
    hyper = {name: jnp.float32(getattr(config, name)) for name in config.swept}
    sizes = []
    for updates in (0, 5, 10, 20):
        adam = ppo.optimizer(config, hyper, jnp.int32(updates))
        change, _ = adam.update({"kernel": jnp.ones(3)}, adam.init(params), params)
        sizes.append(float(-change["kernel"][0]))
    np.testing.assert_allclose(np.array(sizes) / sizes[0], [1.0, 0.5, 0.0, 0.0], atol=1e-6)


def test_popjaxrl_preset_is_the_published_setting():
    preset = ppo.PRESETS["popjaxrl"]
    assert (preset.core.layers, preset.core.state_size, preset.core.blocks) == (4, 256, 1)
    assert (preset.core.gate, preset.core.norm, preset.core.c_init) == (
        "full_glu", "none", "lecun_normal",
    )  # fmt: skip
    assert (preset.core.dt_min, preset.core.dt_max, preset.core.init) == (1e-3, 1e-1, "legs")
    assert (preset.torso.hidden, preset.torso.width) == ((128,), 256)
    assert (preset.heads.hidden, preset.heads.kernel_scale) == ((128, 128), 2.0)
    assert (preset.num_envs, preset.rollout_length, preset.epochs, preset.minibatches) == (
        64, 1024, 30, 8,
    )  # fmt: skip
    assert (preset.learning_rate, preset.adam_eps, preset.max_grad_norm) == (5e-5, 1e-5, 0.5)
    assert (preset.discount, preset.gae_lambda, preset.clip) == (0.99, 1.0, 0.2)
    assert (preset.value_coef, preset.entropy_coef, preset.clip_value) == (1.0, 0.0, True)
    assert preset.anneal_steps is None and not preset.bootstrap_truncation
    assert preset.torso.observe_action and preset.torso.observe_first
    assert not preset.torso.observe_reward


def test_popjaxrl_preset_has_the_published_size():
    """Nine inputs and four actions made 1,186,949 parameters, 528,005 with a GRU of 256."""
    spec = Spec(obs=Box((4,)), action=Discrete(4))  # 4 + 4 for the previous action + 1 flag
    for core, expected in ((S5Config, 1_186_949), (GRUConfig, 528_005)):
        config = ppo.PRESETS["popjaxrl"]
        if core is GRUConfig:
            config = PPOConfig(core=GRUConfig(), torso=config.torso, heads=config.heads)
        shapes = jax.eval_shape(
            lambda key, config=config: ppo.init(config, spec, key), jax.random.key(0)
        )
        leaves = jax.tree.leaves(shapes.params["network"])
        assert sum(x.size for x in leaves) == expected


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("epochs", 0, "epochs must be at least 1, got 0"),
        ("learning_rate", -1.0, "learning_rate must be above 0, got -1.0"),
        ("discount", 1.5, "discount must be in [0, 1], got 1.5"),
        (
            "num_envs",
            6,
            "num_envs must be a multiple of minibatches = 4 because minibatches are whole "
            "environment sequences, got 6",
        ),
    ],
)
def test_hyper_parameters_out_of_range_are_refused(field, value, message):
    with pytest.raises(UserError) as error:
        PPOConfig(**{field: value})
    assert str(error.value) == message


def test_spaces_ppo_cannot_serve_are_refused():
    with pytest.raises(
        UserError, match="a continuous action must be a vector, got shape \\(2, 2\\)"
    ):
        ppo.networks(PPOConfig(), Spec(obs=Box((3,)), action=Box((2, 2))))
    with pytest.raises(UserError, match="normalize_obs needs array observations"):
        ppo.networks(PPOConfig(normalize_obs=True), Spec(obs=Discrete(3), action=Discrete(2)))
