"""A life comes back from its file as it was, and files that are none are refused in a sentence."""

import json

import pytest

from rlssm.errors import UserError
from rlssm.world_models.explorer import live
from rlssm.world_models.life_json import load_life, save_life
from rlssm.world_models.schema_json import state_to_json


@pytest.fixture(scope="module")
def life():
    return list(live(3, steps=25, size=(16, 16)))


def test_a_life_comes_back_from_its_file(life, tmp_path):
    save_life(life, tmp_path / "life.json")
    again = load_life(tmp_path / "life.json")
    assert [action for _, action, _ in again] == [action for _, action, _ in life]
    for (a, _, b), (c, _, d) in zip(life, again, strict=True):
        assert state_to_json(a) == state_to_json(c)
        assert state_to_json(b) == state_to_json(d)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ({"version": 2}, r"version must be 1, got 2"),
        ({"format": "rlssm laws"}, r"format must be 'rlssm life'"),
        ({"actions": []}, r"actions must have 1 to 10000 elements, got 0"),
        ({"actions": ["fly"]}, r"actions\[0\] 'fly'"),
        ({"start": None}, r"start must be an object"),
        ({"reward": 1}, r"reward"),
    ],
)
def test_a_damaged_file_ends_in_one_sentence(damage, message, life, tmp_path):
    path = tmp_path / "life.json"
    save_life(life, path)
    path.write_text(json.dumps(json.loads(path.read_text()) | damage))
    with pytest.raises(UserError, match=message) as caught:
        load_life(path)
    assert "\n" not in str(caught.value)


def test_nothing_is_done_after_death(life, tmp_path):
    path = tmp_path / "life.json"
    save_life(life, path)
    fields = json.loads(path.read_text())
    for player in (fields["start"]["player"], fields["start"]["objects"][0]):
        player["health"] = 0
        player["inventory"]["health"] = 0
    path.write_text(json.dumps(fields))
    with pytest.raises(UserError, match=r"actions\[0\] comes after the life is over"):
        load_life(path)
