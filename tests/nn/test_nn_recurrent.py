"""Each recurrent layer against a NumPy loop written from its equations."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlssm.errors import UserError
from rlssm.nn.linear_attention import LEAST_WEIGHT, LinearAttention, LinearAttentionConfig
from rlssm.nn.lru import LRU, LRUConfig
from rlssm.nn.recurrent import GRU, LSTM, GRUConfig, LSTMConfig, MinGRU, MinGRUConfig
from rlssm.nn.s4d import S4D, S4DConfig

T, B, H = 5, 2, 4
KEY = jax.random.key(0)
X = jax.random.normal(jax.random.key(1), (T, B, H))
RESET = jnp.zeros((T, B), bool).at[2, 0].set(True)


def sigmoid(v):
    return 1 / (1 + np.exp(-v))


def float64(tree):
    return jax.tree.map(lambda v: np.asarray(v, np.float64), tree)


def random_values(layer):
    """Parameters and a carry of the right shapes, nowhere zero."""
    carry = layer.initial_carry(B)
    params = jax.eval_shape(layer.init, KEY, carry, X, RESET)["params"]
    leaves, treedef = jax.tree.flatten((params, carry))
    keys = jax.random.split(KEY, len(leaves))
    leaves = [0.5 * jax.random.normal(k, v.shape) for v, k in zip(leaves, keys, strict=True)]
    return jax.tree.unflatten(treedef, leaves)


def cleared(h, t):
    return np.where(np.asarray(RESET)[t][:, None], 0, h)


def check(layer, expected):
    params, carry = random_values(layer)
    last, y = jax.jit(layer.apply)({"params": params}, carry, X, RESET)
    wanted_last, wanted = expected(float64(params), float64(carry), np.asarray(X, np.float64))
    np.testing.assert_allclose(y, wanted, atol=2e-5)
    for found, leaf in zip(jax.tree.leaves(last), wanted_last, strict=True):
        np.testing.assert_allclose(found, leaf, atol=2e-5)


def test_gru():
    def expected(p, h, x):
        w, b = np.split(p["input"]["kernel"], 3, 1), np.split(p["input"]["bias"], 3)
        u, y = np.split(p["recurrent"], 3, 1), []
        for t in range(T):
            h = cleared(h, t)
            r = sigmoid(x[t] @ w[0] + b[0] + h @ u[0])
            z = sigmoid(x[t] @ w[1] + b[1] + h @ u[1])
            n = np.tanh(x[t] @ w[2] + b[2] + r * (h @ u[2] + p["bias"]))
            h = (1 - z) * n + z * h
            y.append(h)
        return [h], np.stack(y)

    check(GRU(H, "highest"), expected)


def test_lstm():
    def expected(p, state, x):
        w, b = np.split(p["input"]["kernel"], 4, 1), np.split(p["input"]["bias"], 4)
        u, y, (h, c) = np.split(p["recurrent"], 4, 1), [], state
        for t in range(T):
            h, c = cleared(h, t), cleared(c, t)
            i, f, o = (sigmoid(x[t] @ w[k] + b[k] + h @ u[k]) for k in range(3))
            c = f * c + i * np.tanh(x[t] @ w[3] + b[3] + h @ u[3])
            h = o * np.tanh(c)
            y.append(h)
        return [h, c], np.stack(y)

    check(LSTM(H, "highest"), expected)


def test_mingru():
    def expected(p, h, x):
        y = []
        for t in range(T):
            u = (x[t] - x[t].mean(-1, keepdims=True)) / np.sqrt(x[t].var(-1, keepdims=True) + 1e-6)
            u = u * p["norm"]["scale"] + p["norm"]["bias"]
            z = sigmoid(u @ p["gate"]["kernel"] + p["gate"]["bias"])
            candidate = u @ p["candidate"]["kernel"] + p["candidate"]["bias"]
            h = (1 - z) * cleared(h, t) + z * candidate
            y.append(x[t] + h)
        return [h], np.stack(y)

    check(MinGRU(MinGRUConfig(), H, "highest"), expected)


def test_s4d():
    def expected(p, carry, x):
        state, y = carry.re + 1j * carry.im, []
        eigenvalue = -np.exp(p["Lambda_re"]) + 1j * p["Lambda_im"]
        step = np.exp(p["log_step"])[:, None]
        decay = np.exp(eigenvalue * step)
        c = p["C"][..., 0] + 1j * p["C"][..., 1]
        for t in range(T):
            state = np.where(np.asarray(RESET)[t][:, None, None], 0, decay * state)
            state = state + (decay - 1) / eigenvalue * x[t][..., None]
            y.append(2 * (c * state).sum(-1).real + p["D"] * x[t])
        return [state.real, state.imag], np.stack(y)

    check(S4D(S4DConfig(state_size=6), H, "highest"), expected)


def test_linear_attention():
    """Weights over all steps since the last reset, and whatever memory there was before them."""

    def phi(v):
        return np.where(v > 0, v + 1, np.exp(np.minimum(v, 0)))

    def expected(p, carry, x):
        key, query = (phi(x @ p[name]["kernel"]) for name in ("key", "query"))
        value = np.append(x @ p["value"]["kernel"], np.ones((T, B, 1)), -1)
        y, states = np.zeros((T, B, H)), np.zeros_like(carry)
        for b in range(B):
            for t in range(T):
                starts = [s for s in range(t + 1) if RESET[s, b]]
                seen = range(starts[-1] if starts else 0, t + 1)
                memory = sum(np.outer(key[s, b], value[s, b]) for s in seen)
                states[b] = memory + (0 if starts else carry[b])
                read = query[t, b] @ states[b]
                attended = read[:-1] / max(read[-1], LEAST_WEIGHT)
                y[t, b] = attended @ p["output"]["kernel"] + p["output"]["bias"]
        return [states], y

    check(LinearAttention(LinearAttentionConfig(key_size=3, value_size=2), H, "highest"), expected)


def test_lru():
    def expected(p, carry, x):
        state, y = carry.re + 1j * carry.im, []
        decay = np.exp(-np.exp(p["ring"]["nu"]) + 1j * np.exp(p["ring"]["theta"]))
        b = np.exp(p["ring"]["gamma"])[:, None] * (p["B"][..., 0] + 1j * p["B"][..., 1])
        c = p["C"][..., 0] + 1j * p["C"][..., 1]
        for t in range(T):
            state = decay * cleared(state, t) + x[t] @ b.T
            y.append((state @ c.T).real + p["D"] * x[t])
        return [state.real, state.imag], np.stack(y)

    check(LRU(LRUConfig(state_size=3), H, "highest"), expected)


def test_recurrent_kernels_start_orthogonal_and_forget_gates_open():
    carry = LSTM(H).initial_carry(B)
    params = jax.jit(LSTM(H).init)(KEY, carry, X, RESET)["params"]
    for matrix in np.split(params["recurrent"], 4, axis=1):
        np.testing.assert_allclose(matrix @ matrix.T, np.eye(H), atol=1e-6)
    np.testing.assert_array_equal(params["input"]["bias"], [0] * H + [1] * H + [0] * 2 * H)


def test_lru_starts_on_its_ring_and_with_unit_gain():
    config = LRUConfig(state_size=4000, r_min=0.6, r_max=0.9, max_phase=1.0)
    layer = LRU(config, 1)
    params = jax.jit(layer.init)(KEY, layer.initial_carry(B), X[..., :1], RESET)["params"]["ring"]
    radius, phase = np.exp(-np.exp(params["nu"])), np.exp(params["theta"])
    assert radius.min() > 0.6 - 1e-6 and radius.max() < 0.9 + 1e-6
    np.testing.assert_allclose((radius**2).mean(), (0.36 + 0.81) / 2, rtol=0.01)  # by area
    np.testing.assert_allclose([phase.mean(), phase.max()], [0.5, 1.0], atol=0.02)
    np.testing.assert_allclose(np.exp(params["gamma"]) ** 2, 1 - radius**2, rtol=1e-4)


@pytest.mark.parametrize(
    ("config", "field", "value", "message"),
    [
        (GRUConfig, "layers", 0, "core.layers must be at least 1, got 0"),
        (LSTMConfig, "layers", 0, "core.layers must be at least 1, got 0"),
        (MinGRUConfig, "layers", -1, "core.layers must be at least 1, got -1"),
        (S4DConfig, "state_size", 5, "core.state_size must be even and at least 2, got 5"),
        (LinearAttentionConfig, "key_size", 0, "core.key_size must be at least 1, got 0"),
        (LRUConfig, "state_size", 0, "core.state_size must be at least 1, got 0"),
        (LRUConfig, "r_min", 1.0, "core.r_min must be in [0, r_max), got 1.0"),
        (LRUConfig, "r_max", 1.1, "core.r_max must be in (r_min, 1], got 1.1"),
        (LRUConfig, "max_phase", 7.0, "core.max_phase must be in (0, 2 pi], got 7.0"),
    ],
)
def test_configs_refuse(config, field, value, message):
    with pytest.raises(UserError) as error:
        config(**{field: value})
    assert str(error.value) == message
