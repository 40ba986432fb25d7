"""Damaged files end in one sentence, or load as what they now say; never in anything else.

A dataset written by this library carries checksums, so any damage to it must be refused. One
without them may be damaged into another sound dataset (a flipped bit in a reward): what is loaded
is then compared with what HDF5 itself reads.
"""

import h5py
import numpy as np
import pytest
from small_datasets import edit_metadata, make_dataset
from test_data_d4rl import COLUMNS, make_columns, save

from rlssm.data.check import check
from rlssm.data.d4rl_io import import_d4rl, read_d4rl
from rlssm.data.minari_io import read, write
from rlssm.errors import UserError

QUICK, ALL = 40, 500
COUNTS = [QUICK, pytest.param(ALL, marks=pytest.mark.slow)]


def damaged(data: bytes, rng: np.random.Generator) -> bytes:
    """Flip bits, overwrite, insert, remove or cut off."""
    text, at = bytearray(data), int(rng.integers(len(data)))
    size = int(rng.integers(1, 64))
    match rng.integers(5):
        case 0:
            for place in rng.integers(len(text), size=rng.integers(1, 4)):
                text[place] ^= 1 << int(rng.integers(8))
        case 1:
            text[at : at + size] = rng.bytes(size)
        case 2:
            text[at:at] = rng.bytes(size)
        case 3:
            del text[at : at + size]
        case _:
            del text[at:]
    return bytes(text)


def refuses(load) -> bool:
    """Return whether `load` refuses in one sentence; any other exception is the test's failure."""
    try:
        load()
    except UserError as error:
        assert str(error)
        assert "\n" not in str(error)
        assert len(str(error)) < 1_000
        return True
    return False


def mutations(folder, count, seed):
    """Damage one file of a folder at a time, and mend it afterwards."""
    files = sorted(f for f in folder.rglob("*") if f.is_file())
    whole = {file: file.read_bytes() for file in files}
    rng = np.random.default_rng(seed)
    for _ in range(count):
        file = files[rng.integers(len(files))]
        text = damaged(whole[file], rng)
        if text == whole[file]:
            continue
        file.write_bytes(text)
        yield
        assert file.read_bytes() == text  # reading changes nothing
        file.write_bytes(whole[file])


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("data_format", ["hdf5", "arrow", "parquet"])
def test_damage_to_our_own_files_is_refused_or_harmless(count, data_format):
    dataset = make_dataset()
    folder = write(dataset, data_format)
    refused = total = 0
    for _ in mutations(folder, count, seed=count):
        total += 1
        if refuses(lambda: read("box/test-v0")):
            refused += 1
        else:  # a metadata entry that does not count, such as white space
            same = read("box/test-v0")
            assert same.info == dataset.info
            np.testing.assert_array_equal(same.obs, dataset.obs)
            np.testing.assert_array_equal(same.action, dataset.action)
            np.testing.assert_array_equal(same.reward, dataset.reward)
    assert refused > 0.95 * total


@pytest.mark.parametrize("count", COUNTS)
def test_damage_to_files_without_checksums_never_loads_something_else(count):
    folder = write(make_dataset())
    edit_metadata(folder)
    loaded = refused = 0
    for _ in mutations(folder / "data", count, seed=1):
        if refuses(lambda: read("box/test-v0")):
            refused += 1
            continue
        loaded += 1
        dataset = read("box/test-v0")
        check(dataset)
        with h5py.File(folder / "data" / "main_data.hdf5", "r") as file:
            for name, found in {"observations": dataset.obs, "rewards": dataset.reward}.items():
                stored = [file[f"episode_{i}/{name}"][()] for i in range(3)]
                np.testing.assert_array_equal(found, np.concatenate(stored).astype(np.float32))
    assert loaded
    assert refused


@pytest.mark.parametrize("count", COUNTS)
def test_damage_to_d4rl_files_never_loads_something_else(tmp_path, datasets_root, count):
    columns = make_columns([(6, "terminal"), (5, "timeout"), (9, "timeout")], successors=True)
    path = save(tmp_path / "raw" / "hopper-medium-v2.hdf5", columns, algorithm="SAC")
    loaded = refused = 0
    for i, _ in enumerate(mutations(path.parent, count, seed=2)):
        if refuses(lambda i=i: import_d4rl(path, f"d4rl/case{i}-v0")):
            refused += 1
            continue
        loaded += 1
        file = read_d4rl(path)
        with h5py.File(path, "r") as raw:
            for name in COLUMNS:
                if getattr(file, name) is not None:
                    np.testing.assert_array_equal(getattr(file, name), raw[name][()])
        check(read(f"d4rl/case{i}-v0"))
    assert loaded
    assert refused


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("data_format", ["arrow", "parquet"])
def test_damage_to_arrow_files_without_checksums_never_loads_something_unsound(count, data_format):
    folder = write(make_dataset("dict", discrete=True), data_format)
    edit_metadata(folder)
    refused = 0
    for _ in mutations(folder / "data", count, seed=3):
        if refuses(lambda: read("box/test-v0")):
            refused += 1
        else:
            check(read("box/test-v0"))
    assert refused
