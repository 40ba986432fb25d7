import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.struct import PyTreeNode

from rlssm.errors import UserError
from rlssm.io import arrays
from rlssm.io.checkpoint import Checkpoints


class Agent(PyTreeNode):
    params: dict
    key: jax.Array


def make_state(seed: int = 0) -> dict:
    rng = np.random.default_rng(seed)
    return {
        "agent": Agent(
            params={"dense": {"kernel": jnp.asarray(rng.normal(size=(8, 4)), jnp.float32)}},
            key=jax.random.split(jax.random.key(seed), 3),
        ),
        "rbg": jax.random.key(seed, impl="rbg"),
        "half": jnp.asarray(rng.normal(size=5), jnp.bfloat16),
        "flags": jnp.asarray(rng.random(6) < 0.5),
        "count": jnp.int32(16_777_217),  # not a float32
        "double": rng.normal(size=(2, 2)),
        "complex": jnp.asarray(rng.normal(size=2) + 1j, jnp.complex64),
        "nothing": (jnp.zeros((0, 3)), jax.random.split(jax.random.key(0), 0), ()),
        "extremes": jnp.array([jnp.nan, jnp.inf, -jnp.inf, -0.0, 1e-45]),
    }


def assert_identical(a, b) -> None:
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert (type(x), x.dtype, x.shape) == (type(y), y.dtype, y.shape)
        if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            x, y = jax.random.key_data(x), jax.random.key_data(y)
        assert np.asarray(x).tobytes() == np.asarray(y).tobytes()


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Checkpoints:
    """Checkpoints of steps 10 and 20 and a best one, not to be changed by tests."""
    checkpoints = Checkpoints(tmp_path_factory.mktemp("saved"))
    checkpoints.save(10, make_state(10))
    checkpoints.save(20, make_state(20))
    checkpoints.save_best(10, make_state(10).pop("agent"))
    return checkpoints


@pytest.fixture
def copy(saved, tmp_path) -> Checkpoints:
    shutil.copytree(saved.run, tmp_path / "run")
    return Checkpoints(tmp_path / "run")


# --- Round trip -------------------------------------------------------------------------------


def test_state_comes_back_bit_for_bit(saved):
    assert_identical(saved.restore("last", make_state(0)), make_state(20))
    assert_identical(saved.restore(10, make_state(0)), make_state(10))


def test_shapes_alone_will_do_as_a_template(saved):
    state = make_state(20)
    del state["double"]
    template = jax.eval_shape(lambda: jax.tree.map(jnp.asarray, state))
    template["double"] = np.zeros((2, 2))
    assert_identical(saved.restore("last", template), make_state(20))


def test_float64_survives_without_x64_only_as_numpy(saved):
    template = {**make_state(), "double": jax.ShapeDtypeStruct((2, 2), "float64")}
    with pytest.raises(UserError, match=r"double is float64\[2,2\] .* float32\[2,2\] .*ENABLE_X64"):
        saved.restore("last", template)
    with jax.enable_x64(True):
        restored = saved.restore("last", template)["double"]
    assert restored.dtype == jnp.float64
    np.testing.assert_array_equal(restored, make_state(20)["double"])


def test_donated_arrays_serve_as_template(saved):
    template = make_state()
    jax.tree.map(lambda x: x.delete() if isinstance(x, jax.Array) else None, template)
    assert_identical(saved.restore("last", template), make_state(20))


def test_part_of_the_tree_is_restored_by_prefix(saved):
    params = {"dense": {"kernel": jnp.zeros((8, 4))}}
    assert_identical(saved.restore("last", params, "agent/params"), make_state(20)["agent"].params)
    kernel = saved.restore("last", jnp.zeros((8, 4)), "agent/params/dense/kernel")
    assert_identical(kernel, make_state(20)["agent"].params["dense"]["kernel"])
    with pytest.raises(UserError, match="agent/par/dense/kernel is missing there"):
        saved.restore("last", params, "agent/par")


def test_best_is_kept_apart_and_replaced(copy):
    assert (copy.latest(), copy.best()) == (20, 10)
    assert_identical(copy.restore("best", make_state()["agent"]), make_state(10)["agent"])
    for step in (15, 15):  # the second as after a resume from before
        copy.save_best(step, make_state(step)["agent"])
        assert copy.best() == step
        assert os.listdir(copy.folder / "best") == [str(step)]
    assert_identical(copy.restore("best", make_state()["agent"]), make_state(15)["agent"])


def test_no_pickle_on_disk(saved):
    for file in saved.folder.rglob("*"):
        if file.is_file():
            assert not file.read_bytes().startswith((b"\x80\x04", b"\x80\x05")), file


def test_small_states_are_saved_and_restored_fast(tmp_path):
    state = [jnp.zeros((64, 64)) for _ in range(64)]  # 1 MB
    checkpoints = Checkpoints(tmp_path)
    seconds = []
    for step in range(4):
        started = time.perf_counter()
        checkpoints.save(step, state)
        checkpoints.restore("last", state)
        seconds.append(time.perf_counter() - started)
    assert min(seconds) < 1.0  # about 0.1 on an idle machine


# --- Which are kept ---------------------------------------------------------------------------


def test_newest_are_kept(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=2)
    assert checkpoints.latest() is None and checkpoints.steps() == []
    for step in (1, 2, 10, 9, 11):  # 10 is of a run that was then resumed from 2
        checkpoints.save(step, jnp.int32(step))
        assert checkpoints.latest() == step
    assert checkpoints.steps() == [9, 11]
    checkpoints.discard_after(9)
    assert checkpoints.steps() == [9]
    assert checkpoints.restore("last", jnp.int32(0)) == 9
    assert sorted(os.listdir(checkpoints.folder)) == ["9"]


@pytest.mark.parametrize("keep", [0, -1])
def test_keep_is_checked(tmp_path, keep):
    with pytest.raises(UserError, match=f"keep must be at least 1, got {keep}"):
        Checkpoints(tmp_path, keep=keep)


def test_only_arrays_are_saved(tmp_path):
    with pytest.raises(TypeError, match="a checkpoint holds arrays only, n is 3"):
        Checkpoints(tmp_path).save(1, {"n": 3})
    assert Checkpoints(tmp_path).steps() == []


# --- What is not there, or something else -----------------------------------------------------


def test_missing_checkpoints_are_named(tmp_path, saved):
    with pytest.raises(UserError, match="has no last checkpoint"):
        Checkpoints(tmp_path).restore("last", jnp.zeros(2))
    with pytest.raises(UserError, match="has no checkpoint of step 15; there are: 10, 20"):
        saved.restore(15, jnp.zeros(2))
    with pytest.raises(UserError, match='must be "last", "best" or a number of steps, got .lats'):
        saved.restore("lats", jnp.zeros(2))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"half": jnp.zeros(6, jnp.bfloat16)}, r"half is bfloat16\[5\] there, bfloat16\[6\] was"),
        ({"half": jnp.zeros(5, jnp.float16)}, r"half is bfloat16\[5\] there, float16\[5\] was"),
        ({"count": jnp.float32(0)}, r"count is int32\[\] there, float32\[\] was"),
        ({"rbg": jax.random.key(0)}, r"rbg is key<rbg>\[\] there, key<fry>\[\] was"),
        ({"rbg": jnp.zeros(4, "uint32")}, r"rbg is key<rbg>\[\] there, uint32\[4\] was"),
        ({"more": jnp.zeros(())}, r"more is missing there, float32\[\] was expected"),
        ({"nothing": ()}, r"nothing/0 is float32\[0,3\] there, nothing .* \(1 more leaves"),
    ],
)
def test_another_state_is_refused_by_leaf(saved, change, message):
    with pytest.raises(UserError, match=message) as error:
        saved.restore("last", {**make_state(), **change})
    assert str(saved.folder / "20") in str(error.value)


# --- Damage -----------------------------------------------------------------------------------


def test_damaged_newest_is_not_passed_over(copy):
    file = next((copy.folder / "20" / "arrays" / "d").iterdir())
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(UserError, match=r"20 is damaged: arrays/d/\w+ has SHA-256 .* step 10 can"):
        copy.restore("last", make_state())
    (copy.folder / "10" / "manifest.json").unlink()
    with pytest.raises(UserError, match=r"20 is damaged: .*; no other is intact"):
        copy.restore("last", make_state())
    with pytest.raises(UserError, match=r"10 is damaged: manifest.json cannot be read \(No such"):
        copy.restore(10, make_state())


@pytest.mark.parametrize("text", ["", "{", "[]", "3", "{}", '{"checksum": 1}', "[" * 10_000])
def test_foreign_manifests_are_refused(copy, text):
    (copy.folder / "20" / "manifest.json").write_text(text)
    with pytest.raises(
        UserError, match=r"20 is damaged: manifest.json .*; step 10 can be restored"
    ):
        copy.restore("last", make_state())


def test_other_formats_are_refused(copy):
    manifest = {"format": 99, "leaves": {}, "keys": {}, "files": {}}
    manifest["checksum"] = arrays._checksum(manifest)
    (copy.folder / "20" / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(UserError, match="20 is damaged: format 99 was found, 1 expected"):
        copy.restore("last", make_state())


def test_every_damaged_byte_is_noticed(copy):
    """Flips, truncations, insertions and deletions end in a UserError or change nothing."""
    rng = random.Random(0)
    template, truth = make_state(), make_state(20)
    files = sorted(f for f in (copy.folder / "20").rglob("*") if f.is_file())
    refused = 0
    for trial in range(150):
        file = files[trial % len(files)]
        original = file.read_bytes()
        file.write_bytes(damage(rng, original))
        try:
            assert_identical(copy.restore("last", template), truth)
        except UserError as error:
            assert "20 is damaged" in str(error)
            refused += 1
        file.write_bytes(original)
    assert refused >= 145  # white space at the manifest's end may go unnoticed, nothing else
    assert_identical(copy.restore("last", template), truth)


def damage(rng: random.Random, data: bytes) -> bytes:
    at = rng.randrange(max(1, len(data)))
    match rng.randrange(4):
        case 0 if data:
            return data[:at] + bytes([data[at] ^ (1 << rng.randrange(8))]) + data[at + 1 :]
        case 1 if data:
            return data[:at]
        case 2 if data:
            return data[:at] + data[at + 1 :]
        case _:
            return data[:at] + rng.randbytes(3) + data[at:]


# --- Disks that do not write ------------------------------------------------------------------


def test_read_only_directory(tmp_path):
    (tmp_path / "checkpoints").write_text("a file in the way: root may write anywhere else")
    with pytest.raises(UserError, match=r"cannot write checkpoint .*/checkpoints/1: File exists"):
        Checkpoints(tmp_path).save(1, make_state())


@pytest.mark.parametrize("step", [20, 30])
@pytest.mark.parametrize("call", ["posix_fallocate", "fsync", "open"])
def test_full_disk_loses_nothing(copy, monkeypatch, step, call):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, call, full)
        with pytest.raises(UserError, match=rf"checkpoint .*/{step}: No space left on device; ear"):
            copy.save(step, make_state(1))
    assert copy.steps() == [10, 20]
    assert_identical(copy.restore("last", make_state()), make_state(20))
    copy.save(step, make_state(1))
    assert_identical(copy.restore("last", make_state()), make_state(1))


def test_truly_full_disk_says_one_sentence(tmp_path):
    """A limit on the size of files stands for the disk; orbax must not print tracebacks."""
    program = f"""
import resource, signal
import numpy as np
from pathlib import Path
from rlssm.errors import UserError
from rlssm.io.checkpoint import Checkpoints
checkpoints = Checkpoints(Path({str(tmp_path)!r}))
checkpoints.save(1, np.ones(4))
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))
try:
    checkpoints.save(2, np.random.default_rng(0).normal(size=10_000))
except UserError as error:
    print(error)
print(checkpoints.steps(), checkpoints.restore("last", np.ones(4)).tolist())
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    first, second = done.stdout.splitlines()
    assert first.startswith("cannot write checkpoint") and "File too large" in first
    assert second == "[1] [1.0, 1.0, 1.0, 1.0]"
    assert done.stderr == ""


# --- Being killed -----------------------------------------------------------------------------

SAVER = """
import sys
import numpy as np
from pathlib import Path
from rlssm.io.checkpoint import Checkpoints
checkpoints = Checkpoints(Path(sys.argv[1]))
step = checkpoints.latest() or 0
while True:
    step += 1
    state = {str(i): np.full(1000, step) for i in range(4)}
    checkpoints.save(step, state)
    checkpoints.save_best(step // 3, state)
    print(step, flush=True)
"""


def test_killed_while_saving(tmp_path):
    """What was reported saved is there; what is there is whole; a killed saver can go on."""
    rng = random.Random(0)
    template = {str(i): np.zeros(1000, int) for i in range(4)}
    newest = 0
    for _ in range(3):
        process = subprocess.Popen(
            [sys.executable, "-c", SAVER, str(tmp_path)], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        for _ in range(2):
            process.stdout.readline()
        time.sleep(rng.random() * 0.3)
        process.send_signal(signal.SIGKILL)
        reported = [int(line) for line in process.stdout if line.endswith("\n")]
        process.wait()
        checkpoints = Checkpoints(tmp_path)
        assert checkpoints.latest() >= max(reported, default=newest + 2)
        newest = checkpoints.latest()
        for which in (*checkpoints.steps(), "best"):
            restored = checkpoints.restore(which, template)
            assert len({int(x) for leaf in restored.values() for x in leaf}) == 1
            if which != "best":
                assert restored["0"][0] == which


class Killed(BaseException):
    """Stands for SIGKILL: nothing catches it, and no file is touched after it."""


def dies(monkeypatch, save, operations: int) -> bool:
    """Call `save`, dying at the file operation after so many; return whether it came to that."""
    rmtree = shutil.rmtree
    left = operations
    with monkeypatch.context() as patch:
        for owner, name in ((Path, "rename"), (shutil, "rmtree"), (Path, "mkdir")):
            original = getattr(owner, name)

            def counted(*args, original=original, **kwargs):
                nonlocal left
                left -= 1
                if left == -1 and original is rmtree:  # halfway through the removal
                    for file in Path(args[0]).rglob("manifest.json"):
                        file.unlink()
                if left < 0:
                    raise Killed
                return original(*args, **kwargs)

            patch.setattr(owner, name, counted)
        try:
            save()
        except Killed:
            return True
    return False


@pytest.mark.parametrize("step", [20, 30])
def test_killed_at_each_file_operation(copy, monkeypatch, step):
    """Whenever a save dies, the old state or the new one is the last, and all others are whole."""
    for operations in range(30):
        copy.discard_after(0)
        copy.save(10, make_state(10))
        copy.save(20, make_state(20))
        died = dies(monkeypatch, lambda: copy.save(step, make_state(1)), operations)
        for whole in copy.steps():
            restored = copy.restore(whole, make_state())
            is_new = restored["double"][0, 0] == make_state(1)["double"][0, 0]
            assert_identical(restored, make_state(1 if is_new else whole))
            assert not is_new or whole == step
        assert copy.latest() in (20, step)
        if not died:
            assert is_new and operations > 4
            return
    raise AssertionError("saving never ended")
