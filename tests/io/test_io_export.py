import json
import re
import subprocess
import sys
import textwrap
import zipfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlssm.errors import UserError
from rlssm.io import export as export_io
from rlssm.io.export import export_policy, load_exported
from rlssm.types import Box, DictSpace, Discrete, Inputs, Policy, Previous, Spec

SPEC = Spec(DictSpace((("extra", Box((2,))), ("main", Box((3,))))), Box((2,)))


def act(params, inputs, reset, carry, key, greedy):
    """A linear recurrence that looks at everything it may look at, and counts steps."""
    h = jnp.where(reset[:, None], 0, carry["h"])
    seen = [inputs.obs["extra"], inputs.obs["main"], inputs.previous.action]
    seen += [inputs.previous.reward[:, None], inputs.first[:, None]]
    h = 0.5 * h + jnp.concatenate(seen, axis=-1) @ params
    noise = 0 if greedy else jax.random.normal(key, h.shape)
    return jnp.tanh(h + noise), {"h": h, "n": jnp.where(reset, 0, carry["n"]) + 1}


POLICY = Policy(lambda b: {"h": jnp.full((b, 2), 7.0), "n": jnp.zeros(b, jnp.int32)}, act)
PARAMS = jnp.asarray(np.random.default_rng(0).normal(size=(9, 2)), jnp.float32)


def arguments(batch: int, t: int) -> tuple:
    rng = np.random.default_rng(batch + t)
    obs = {"extra": rng.normal(size=(batch, 2)), "main": rng.normal(size=(batch, 3))}
    first = rng.random(batch) < (1.0 if t == 0 else 0.3)
    previous = rng.normal(size=(batch, 2)) * ~first[:, None], rng.normal(size=batch) * ~first
    single = jax.tree.map(np.float32, (obs, *previous))
    return (*single, first, first)


@pytest.fixture(scope="module")
def file(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("export") / "policy.zip"
    export_policy(path, POLICY, PARAMS, SPEC)
    return path


@pytest.mark.parametrize("batch", [1, 5])
@pytest.mark.parametrize("greedy", [True, False])
def test_exported_policy_acts_like_the_original(file, batch, greedy):
    exported = load_exported(file)
    carry = exported.initial_carry(np.ones(batch, bool))
    expected_carry = POLICY.initial_carry(batch)
    for t in range(3):
        obs, action, reward, first, reset = now = arguments(batch, t)
        inputs = Inputs(obs, Previous(action, reward), first)
        key = jax.random.key(t)
        expected, expected_carry = act(PARAMS, inputs, reset, expected_carry, key, greedy)
        if greedy:
            action, carry = exported.greedy(*now, carry)
        else:
            action, carry = exported.sample(jax.random.key_data(key), *now, carry)
        np.testing.assert_allclose(action, expected, rtol=1e-5, atol=1e-6)
        for ours, theirs in zip(carry, jax.tree.leaves(expected_carry), strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)


def test_description_says_what_goes_in(file):
    description = load_exported(file).description
    assert description["batch"] == "any" and description["platforms"] == ["cpu", "cuda"]
    assert list(description["arguments"]) == [
        "obs", "previous_action", "previous_reward", "first", "reset", "carry",
    ]  # fmt: skip
    assert description["arguments"]["obs"]["main"] == {"shape": ["batch", 3], "dtype": "float32"}
    assert description["arguments"]["carry"][1] == {"shape": ["batch"], "dtype": "int32"}


def test_loads_without_this_library(file):
    """The example in the module's head, run where rlssm cannot be imported."""
    example = textwrap.dedent(
        re.search(r"\n\n(    import json.*?)\"*$", export_io.__doc__, re.S)[1]
    )
    assert len(example.strip().splitlines()) <= 12
    program = f"""
import sys
sys.modules["rlssm"] = None
{example.replace('"policy.zip"', repr(str(file)))}
"""
    values = "\n".join(
        f"{name} = {value}"
        for name, value in (
            ("obs", '{"extra": np.ones((1, 2), "float32"), "main": np.ones((1, 3), "float32")}'),
            ("previous_action", 'np.zeros((1, 2), "float32")'),
            ("previous_reward", 'np.zeros(1, "float32")'),
        )
    )
    program = program.replace("first = np.ones", f"{values}\nfirst = np.ones")
    program += "\nprint(action.tolist(), [x.tolist() for x in carry])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    h = np.concatenate([np.ones(5), np.zeros(3), np.ones(1)]) @ np.float64(PARAMS)
    action, (memory, count) = json.loads(f"[{done.stdout.replace('] [', '], [')}]")
    np.testing.assert_allclose(action, [np.tanh(h)], rtol=1e-5)
    np.testing.assert_allclose(memory, [h], rtol=1e-5)
    assert count == [1]


def test_fixed_batch_and_discrete_actions(tmp_path):
    def choose(params, inputs, reset, carry, key, greedy):
        return jnp.argmax(inputs.obs * params, axis=-1), ()

    policy = Policy(lambda b: (), choose)
    export_policy(
        tmp_path / "p",
        policy,
        jnp.ones(3),
        Spec(Box((3,)), Discrete(3)),
        batch=2,
        platforms=("cpu",),
    )
    exported = load_exported(tmp_path / "p")
    first = np.ones(2, bool)
    assert exported.initial_carry(first) == ()
    obs = np.array([[0, 1, 0], [2, 1, 0]], np.float32)
    action, carry = exported.greedy(obs, np.zeros(2, np.int32), np.zeros(2, "f"), first, first, ())
    assert action.tolist() == [1, 0] and carry == ()
    assert exported.description["batch"] == 2


def test_no_pickle(file):
    with zipfile.ZipFile(file) as archive:
        assert archive.namelist() == ["description.json", "initial_carry", "greedy", "sample"]
        for name in archive.namelist():
            assert not archive.read(name).startswith(b"\x80")


# --- What goes wrong --------------------------------------------------------------------------


def test_policies_that_need_to_know_the_batch_ask_for_it(tmp_path):
    def picky(params, inputs, reset, carry, key, greedy):
        return inputs.obs[:2] if int(inputs.first.shape[0]) % 2 == 0 else inputs.obs, carry

    policy = Policy(lambda b: (), picky)
    spec = Spec(Box((2,)), Box((2,)))
    with pytest.raises(UserError, match="cannot be exported for cpu and cuda .* try a fixed batch"):
        export_policy(tmp_path / "p", policy, (), spec)
    assert list(tmp_path.iterdir()) == []
    export_policy(tmp_path / "p", policy, (), spec, batch=2)
    with pytest.raises(UserError, match="batch must be at least 1, or left out, got 0"):
        export_policy(tmp_path / "p", policy, (), spec, batch=0)


def test_unwritable_and_missing_files(file, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write .*file/p: Not a directory"):
        export_policy(tmp_path / "file" / "p", POLICY, PARAMS, SPEC)
    with pytest.raises(UserError, match="cannot read .*nowhere: No such file or directory"):
        load_exported(tmp_path / "nowhere")


def test_damaged_files_are_refused(file, tmp_path):
    data = file.read_bytes()
    truth = {
        name: bytes(zipfile.ZipFile(file).read(name)) for name in zipfile.ZipFile(file).namelist()
    }
    rng = np.random.default_rng(0)
    for trial in range(60):
        at = int(rng.integers(len(data)))
        flipped = data[:at] + bytes([data[at] ^ (1 << trial % 8)]) + data[at + 1 :]
        path = tmp_path / "damaged"
        path.write_bytes(flipped if trial % 3 else data[:at])
        try:
            load_exported(path)
        except UserError as error:
            assert "is damaged or is not an exported policy" in str(error)
        else:  # a bit that nothing hangs on, such as a date
            archive = zipfile.ZipFile(path)
            assert {name: archive.read(name) for name in archive.namelist()} == truth
