"""The S5 layer against a complex128 loop, its initial values, and the blocks around it."""

from dataclasses import replace
from typing import get_args, get_type_hints

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlssm.errors import UserError
from rlssm.kernels.hippo import SYSTEMS, initial_system
from rlssm.nn.blocks import GatedActivation, ResidualBlock, Stack
from rlssm.nn.cores import NoMemory
from rlssm.nn.s5 import S5, S5Config

T, B, H = 6, 2, 3
KEY = jax.random.key(0)
U = jax.random.normal(jax.random.key(1), (T, B, H))
RESET = jnp.zeros((T, B), bool).at[0, 1].set(True).at[3, 0].set(True)
CONFIG = S5Config(state_size=8, dt_min=0.05, dt_max=0.5)


def initialised(config, features=H):
    layer = S5(config, features, "highest")
    u, carry = jnp.zeros((1, B, features)), layer.initial_carry(B)
    return layer, jax.jit(layer.init)(KEY, carry, u, RESET[:1])["params"]


def random_carry(layer):
    keys = iter(jax.random.split(jax.random.key(2), 2))
    return jax.tree.map(lambda c: jax.random.normal(next(keys), c.shape), layer.initial_carry(B))


def complex128(stored):
    return np.asarray(stored[..., 0], np.float64) + 1j * np.asarray(stored[..., 1], np.float64)


def oracle(config, params, carry, u):
    """x' = Lambda x + B u discretised as in the papers, then one step after another."""
    params, u = jax.tree.map(lambda v: np.asarray(v, np.float64), (params, u))
    real = {
        "none": lambda v: v,
        "clip": lambda v: np.minimum(v, -1e-4),
        "exp": lambda v: -np.exp(v),
        "softplus": lambda v: -np.log1p(np.exp(v)),
    }[config.stability](params["Lambda_re"])
    lam = real + 1j * params["Lambda_im"]
    dt = config.step_rescale * np.exp(params["log_step"])
    if config.discretization == "zoh":
        decay, gain = np.exp(lam * dt), (np.exp(lam * dt) - 1) / lam
    else:
        decay, gain = (1 + lam * dt / 2) / (1 - lam * dt / 2), dt / (1 - lam * dt / 2)
    b, c = gain[:, None] * complex128(params["B"]), complex128(params["C"])
    x, y = np.asarray(carry.re, np.float64) + 1j * np.asarray(carry.im, np.float64), []
    for t in range(T):
        x = decay * np.where(np.asarray(RESET)[t][:, None], 0, x) + u[t] @ b.T
        y.append((2 if config.conj_sym else 1) * (x @ c.T).real + params["D"] * u[t])
    return x, np.stack(y)


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"discretization": "bilinear", "blocks": 2},
        {"conj_sym": False, "step_rescale": 2.0},
        {"stability": "clip"},
        {"stability": "exp", "init": "s4d-lin"},
        {"stability": "softplus", "init": "s4d-real"},
    ],
    ids=str,
)
def test_layer_matches_a_complex_loop(change):
    config = replace(CONFIG, **change)
    layer, params = initialised(config)
    noise = jax.random.normal(KEY, params["Lambda_re"].shape)
    params = params | {"Lambda_re": params["Lambda_re"] + 0.7 * noise}  # some above the clip
    carry = random_carry(layer)
    last, y = jax.jit(layer.apply)({"params": params}, carry, U, RESET)
    wanted_last, wanted = oracle(config, params, carry, U)
    np.testing.assert_allclose(y, wanted, atol=2e-5)
    np.testing.assert_allclose(last.re + 1j * np.asarray(last.im), wanted_last, atol=2e-5)


def test_leaving_out_conjugates_changes_nothing():
    layer, params = initialised(CONFIG)
    conjugate = jnp.array([1.0, -1.0])
    whole = {
        name: jnp.concatenate([params[name], sign * params[name]])
        for name, sign in [("Lambda_re", 1), ("Lambda_im", -1), ("log_step", 1)]
    }
    whole["B"] = jnp.concatenate([params["B"], params["B"] * conjugate])
    whole["C"] = jnp.concatenate([params["C"], params["C"] * conjugate], axis=1)
    whole["D"] = params["D"]
    doubled = S5(replace(CONFIG, conj_sym=False), H, "highest")
    _, half_y = layer.apply({"params": params}, layer.initial_carry(B), U, RESET)
    _, whole_y = doubled.apply({"params": whole}, doubled.initial_carry(B), U, RESET)
    np.testing.assert_allclose(half_y, whole_y, atol=1e-5)


# --- Initial values ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("init", "stability"),
    [(init, "none") for init in SYSTEMS] + [("legt", "exp"), ("s4d-real", "softplus")],
)
def test_layers_start_at_the_named_eigenvalues(init, stability):
    config = replace(CONFIG, init=init, stability=stability, blocks=2)
    params = initialised(config)[1]
    real = np.asarray(params["Lambda_re"], np.float64)
    real = {"none": real, "exp": -np.exp(real), "softplus": -np.log1p(np.exp(real))}[stability]
    expected = initial_system(init, 8, 2).eigenvalues
    np.testing.assert_allclose(real + 1j * np.asarray(params["Lambda_im"]), expected, rtol=1e-5)


def test_every_initial_system_is_offered():
    assert set(get_args(get_type_hints(S5Config)["init"])) == set(SYSTEMS)


@pytest.mark.parametrize(
    ("c_init", "std"),
    [
        ("truncated_normal", 64**-0.5),
        ("lecun_normal", (64 * 40) ** -0.5),
        ("complex_normal", 0.5**0.5),
    ],
)
def test_initial_scales(c_init, std):
    config = S5Config(state_size=64, c_init=c_init, dt_min=0.01, dt_max=0.2)
    _, params = initialised(config, features=40)
    np.testing.assert_allclose(np.std(params["C"], axis=(0, 1)), std, rtol=0.1)
    power = np.mean(np.abs(complex128(params["B"])) ** 2)
    np.testing.assert_allclose(power, 1 / 64, rtol=0.1)
    steps = np.exp(params["log_step"])
    assert steps.min() >= 0.01 and steps.max() <= 0.2
    np.testing.assert_allclose(params["log_step"].mean(), np.log(0.01 * 0.2) / 2, atol=0.5)


def test_initial_matrices_are_real_ones_in_the_basis_of_the_system():
    _, params = initialised(CONFIG)
    system = initial_system("legs", 8)
    B_real = 2 * (system.vectors @ complex128(params["B"])).real
    np.testing.assert_allclose(system.inverse @ B_real, complex128(params["B"]), atol=1e-6)


# --- Blocks -----------------------------------------------------------------------------------


def gelu(z):
    return 0.5 * z * (1 + np.tanh(np.sqrt(2 / np.pi) * (z + 0.044715 * z**3)))


def affine(params, x):
    return x @ np.asarray(params["kernel"], np.float64) + np.asarray(params["bias"], np.float64)


def normalised(x):
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)


@pytest.mark.parametrize("kind", ["full_glu", "half_glu1", "half_glu2", "gelu"])
def test_gates_compute_their_equations(kind):
    output, params = GatedActivation(kind, "highest").init_with_output(KEY, U)
    z, params = np.asarray(U, np.float64), params.get("params", {})
    g = gelu(z)
    value = {"half_glu2": z}.get(kind, g)
    if kind == "full_glu":
        value = affine(params["value"], g)
    expected = g if kind == "gelu" else value / (1 + np.exp(-affine(params["gate"], g)))
    np.testing.assert_allclose(output, expected, atol=1e-5)


@pytest.mark.parametrize("norm", ["pre", "post", "none"])
@pytest.mark.parametrize("inner_norm", [False, True])
def test_blocks_put_norms_where_asked(norm, inner_norm):
    block = ResidualBlock(NoMemory(H), "gelu", norm, inner_norm)
    (_, output), params = block.init_with_output(KEY, (), U, RESET)
    u = np.asarray(U, np.float64)
    z = normalised(u) if norm == "pre" else u
    y = u + gelu(normalised(z) if inner_norm else z)
    np.testing.assert_allclose(output, normalised(y) if norm == "post" else y, atol=1e-4)
    names = {"norm"} - {"norm" if norm == "none" else ""} | (
        {"inner_norm"} if inner_norm else set()
    )
    assert set(params.get("params", {})) == names


def test_a_stack_is_its_layers_one_after_another():
    layer = ResidualBlock(S5(CONFIG, H, "highest"), "half_glu1", "pre", precision="highest")
    stack = Stack(layer, 3)
    carry = random_carry(stack)
    (last, y), params = jax.jit(stack.init_with_output)(KEY, carry, U, RESET)
    x, apply = U, jax.jit(layer.apply)
    for i in range(3):
        one = {"params": jax.tree.map(lambda p, i=i: p[i], params["params"]["layer"])}
        after, x = apply(one, jax.tree.map(lambda c, i=i: c[:, i], carry), x, RESET)
        for found, expected in zip(last, after, strict=True):
            np.testing.assert_allclose(found[:, i], expected, atol=1e-5)
    np.testing.assert_allclose(y, x, atol=1e-5)


def test_layers_of_a_stack_draw_their_own_parameters():
    stack = Stack(S5(CONFIG, H), 2)
    params = jax.jit(stack.init)(KEY, stack.initial_carry(B), U, RESET)["params"]["layer"]
    for name in ("B", "C", "D", "log_step"):
        assert not np.allclose(params[name][0], params[name][1]), name
    np.testing.assert_array_equal(params["Lambda_im"][0], params["Lambda_im"][1])


# --- Configuration ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"state_size": 63},
            "core.state_size must be a multiple of 2 * core.blocks = 2 because eigenvalues come "
            "in pairs, got 63; use 64",
        ),
        (
            {"state_size": 0, "blocks": 3},
            "core.state_size must be a multiple of 2 * core.blocks = 6 because eigenvalues come "
            "in pairs, got 0; use 6",
        ),
        ({"layers": 0}, "core.layers must be at least 1, got 0"),
        ({"blocks": 0}, "core.blocks must be at least 1, got 0"),
        ({"dt_min": 0.5}, "core.dt_min must be in (0, dt_max], got 0.5"),
        ({"dt_min": 0.0}, "core.dt_min must be in (0, dt_max], got 0.0"),
        ({"step_rescale": 0.0}, "core.step_rescale must be above 0, got 0.0"),
    ],
)
def test_config_refuses(fields, message):
    with pytest.raises(UserError) as error:
        S5Config(**fields)
    assert str(error.value) == message
