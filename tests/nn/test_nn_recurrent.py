"""Each recurrent layer against a NumPy loop written from its equations."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlssm.errors import UserError
from rlssm.nn.attention import BASE, Attention, attend
from rlssm.nn.ffm import FFM, FFMConfig
from rlssm.nn.linear_attention import LEAST_WEIGHT, LinearAttention, LinearAttentionConfig
from rlssm.nn.lru import LRU, LRUConfig
from rlssm.nn.mamba import Mamba, MambaConfig
from rlssm.nn.recurrent import GRU, LSTM, GRUConfig, LSTMConfig, MinGRU, MinGRUConfig
from rlssm.nn.s4d import S4D, S4DConfig
from rlssm.nn.s5_attention import S5AttentionConfig, s5_attention
from rlssm.nn.transformer import TransformerBlock, TransformerConfig

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


# --- Cores of several parts -------------------------------------------------------------------


def normed(x):
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)


def layer_norm(p, x):
    return normed(x) * p["scale"] + p["bias"]


def dense(p, x):
    return x @ p["kernel"] + p.get("bias", 0)


def gelu(x):
    return x / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def silu(x):
    return x * sigmoid(x)


def test_mamba():
    width = 3

    def expected(p, carry, x):
        recent, state, y = list(np.moveaxis(carry.recent, 1, 0)), carry.x, []
        for t in range(T):
            recent = [cleared(v, t) for v in recent]
            state = np.where(np.asarray(RESET)[t][:, None, None], 0, state)
            v, z = np.split(dense(p["input"], layer_norm(p["norm"], x[t])), 2, -1)
            recent = [*recent, v][-width:]
            v = silu(p["bias"] + sum(k * past for k, past in zip(p["kernel"], recent, strict=True)))
            recent = recent[1:]
            step = np.log1p(np.exp(dense(p["step"], dense(p["step_down"], v))))
            b, c = dense(p["B"], v), dense(p["C"], v)
            decay = np.exp(-np.exp(p["Lambda_re"]) * step[..., None])
            state = decay * state + (step * v)[..., None] * b[:, None]
            out = (state * c[:, None]).sum(-1) + p["D"] * v
            y.append(x[t] + dense(p["output"], out * silu(z)))
        return [np.stack(recent, 1), state], np.stack(y)

    config = MambaConfig(state_size=2, expand=2, convolution=width)
    check(Mamba(config, H, "highest"), expected)


def test_mamba_starts_with_steps_within_its_limits():
    layer = Mamba(MambaConfig(dt_min=0.01, dt_max=0.02, expand=64), H)
    params = jax.jit(layer.init)(KEY, layer.initial_carry(B), X, RESET)["params"]
    steps = np.log1p(np.exp(params["step"]["bias"]))
    assert 0.01 < steps.min() < 0.011 and 0.019 < steps.max() < 0.02
    np.testing.assert_allclose(np.exp(params["Lambda_re"][0]), np.arange(1, 17), rtol=1e-6)


def test_ffm():
    def expected(p, carry, x):
        state, y = carry.re + 1j * carry.im, []
        decay = np.exp(-np.abs(p["alpha"])[:, None] + 1j * p["omega"])
        for t in range(T):
            state = np.where(np.asarray(RESET)[t][:, None, None], 0, decay * state)
            added = dense(p["added"], x[t]) * sigmoid(dense(p["added_gate"], x[t]))
            state = state + added[..., None]
            parts = [state.real.reshape(B, -1), state.imag.reshape(B, -1)]
            gate = sigmoid(dense(p["gate"], x[t]))
            read = normed(dense(p["read"], np.concatenate(parts, -1)))
            y.append(read * gate + dense(p["skip"], x[t]) * (1 - gate))
        return [state.real, state.imag], np.stack(y)

    check(FFM(FFMConfig(traces=3, contexts=2), H, "highest"), expected)


def attended(p, cache, x):
    """What attention says, and its cache: complex keys, turned by how long ago they were."""
    heads, context, size = cache.key.shape[1:]
    query, key, value = (
        dense(p[n], x).reshape(T, B, heads, size) for n in ("query", "key", "value")
    )
    speed = BASE ** (-np.arange(size // 2) / (size // 2))

    def spin(v):
        return v[: size // 2] + 1j * v[size // 2 :]

    y, after = np.zeros((T, B, heads, size)), []
    for b in range(B):
        past = [
            (cache.key[b, :, c], cache.value[b, :, c], cache.held[b, c]) for c in range(context)
        ]
        for t in range(T):
            if RESET[t, b]:
                past = [(np.zeros((heads, size)), np.zeros((heads, size)), 0.0)] * context
            past = [*past, (key[t, b], value[t, b], 1.0)][-context - 1 :]
            for n in range(heads):
                ages = [age for age in range(context + 1) if past[-1 - age][2] > 0]
                turned = [spin(past[-1 - a][0][n]) * np.exp(-1j * speed * a) for a in ages]
                scores = [(spin(query[t, b, n]) * k.conj()).sum().real for k in turned]
                weights = np.exp(np.array(scores) / np.sqrt(size))
                total = sum(w * past[-1 - a][1][n] for w, a in zip(weights, ages, strict=True))
                y[t, b, n] = total / weights.sum()
        after.append([np.stack(part, -2) for part in list(zip(*past[1:], strict=True))[:2]])
        after[-1].append(np.array([held for _, _, held in past[1:]]))
    return [np.stack(leaf) for leaf in zip(*after, strict=True)], dense(
        p["output"], y.reshape(T, B, -1)
    )


@pytest.mark.parametrize("join", ["gru", "sum"])
def test_transformer(join):
    def joined(p, x, y):
        y = np.maximum(y, 0)
        if join == "sum":
            return x + y
        r, z, h = np.split(dense(p["new"], y), 3, -1)
        r_x, z_x = np.split(dense(p["old"], x), 2, -1)
        z = sigmoid(z + z_x - p["bias"])
        return (1 - z) * x + z * np.tanh(h + dense(p["candidate"], sigmoid(r + r_x) * x))

    def expected(p, carry, x):
        last, y = attended(p["memory"], carry, layer_norm(p["norm"], x))
        x = joined(p.get("join"), x, y)
        wide = np.maximum(dense(p["wide"], layer_norm(p["dense_norm"], x)), 0)
        return last, joined(p.get("dense_join"), x, dense(p["narrow"], wide))

    config = TransformerConfig(expansion=2, join=join)
    attention = Attention(H, heads=2, head_size=4, context=2, precision="highest")
    check(TransformerBlock(attention, config, "highest"), expected)


def test_s5_with_attention():
    def expected(p, carry, x):
        s5, glu, state = (
            p["state"]["memory"],
            p["state"]["activation"],
            carry.x.re + 1j * carry.x.im,
        )
        eigenvalue = s5["Lambda_re"] + 1j * s5["Lambda_im"]
        decay = np.exp(eigenvalue * np.exp(s5["log_step"]))
        b = ((decay - 1) / eigenvalue)[:, None] * (s5["B"][..., 0] + 1j * s5["B"][..., 1])
        c = s5["C"][..., 0] + 1j * s5["C"][..., 1]
        u, y = layer_norm(p["state"]["norm"], x), []
        for t in range(T):
            state = decay * cleared(state, t) + u[t] @ b.T
            g = gelu(2 * (state @ c.T).real + s5["D"] * u[t])
            y.append(x[t] + dense(glu["value"], g) * sigmoid(dense(glu["gate"], g)))
        cache, attention = attended(p["attention"], carry.cache, layer_norm(p["norm"], np.stack(y)))
        y = np.stack(y) + attention
        wide = gelu(dense(p["wide"], layer_norm(p["dense_norm"], y)))
        return [state.real, state.imag, *cache], y + dense(p["narrow"], wide)

    config = S5AttentionConfig(state_size=4, heads=2, head_size=4, context=2, expansion=2)
    check(s5_attention(config, H, "highest"), expected)


def test_attention_in_blocks_is_attention_at_once():
    """In value and gradient, with a last block that is not full and windows across blocks."""
    length, context, shape = 7, 3, (B, 2)
    keys = jax.random.split(KEY, 4)
    query = jax.random.normal(keys[0], (*shape, length, 4))
    key, value = (jax.random.normal(k, (*shape, context + length, 4)) for k in keys[1:3])
    held = jnp.ones((B, context + length), bool).at[1, :2].set(False)
    first = jnp.maximum(
        jnp.arange(length), jnp.array([[0], [context + 4]]) * (jnp.arange(length) > 3)
    )
    weights = jax.random.normal(keys[3], query.shape)

    def run(block):
        def loss(*parts):
            y = attend(*parts, held, first, "highest", block)
            return (y * weights).sum(), y

        return jax.jit(jax.value_and_grad(loss, (0, 1, 2), has_aux=True))(query, key, value)

    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), run(3), run(length))


def test_a_number_that_is_none_is_seen_by_those_who_read_it_alone():
    """Three steps behind a step of NaN lies a context of two, within which everything is NaN."""
    layer = Attention(H, heads=1, head_size=2, context=2)
    carry = layer.initial_carry(B)
    params = layer.init(KEY, carry, X, RESET)
    _, y = layer.apply(params, carry, X.at[1, 1].set(jnp.nan), jnp.zeros((T, B), bool))
    assert np.isnan(y).all(-1).tolist() == [[False, 1 <= t <= 3] for t in range(T)]
    _, y = layer.apply(params, carry, X.at[1, 0].set(jnp.nan), RESET)
    assert np.isnan(y).any(-1).T.tolist() == [[t == 1 for t in range(T)], [False] * T]


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
        (MambaConfig, "convolution", 1, "core.convolution must be at least 2, got 1"),
        (FFMConfig, "traces", 0, "core.traces must be at least 1, got 0"),
        (TransformerConfig, "context", 0, "core.context must be at least 1, got 0"),
        (TransformerConfig, "head_size", 3, "core.head_size must be even and at least 2, got 3"),
        (S5AttentionConfig, "state_size", 3, "core.state_size must be even and at least 2, got 3"),
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
