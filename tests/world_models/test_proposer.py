"""A language model behind a recorded endpoint: what it says becomes laws, or is refused."""

import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from crafter_laws import LAWS
from crafter_starts import meadow

from rlssm.errors import UserError
from rlssm.world_models.aspects import ASPECTS, changed_aspects, telling_transitions
from rlssm.world_models.crafter import transition
from rlssm.world_models.crafter_view import CrafterView
from rlssm.world_models.law_json import law_to_json
from rlssm.world_models.proposer import LanguageModel, propose_laws
from rlssm.world_models.record import Record
from rlssm.world_models.schema import MATERIAL_INDEX, Arrow, Cow, Fence, Plant, Skeleton, Zombie

FELLING = next(law for law in LAWS if law.name == "felling gives wood")


@pytest.fixture
def endpoint():
    """Yield an address, what was asked there, and a list of answers to give: (status, body)."""
    asked, answers = [], []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            asked.append((self.path, dict(self.headers), body))
            status, text = answers.pop(0) if len(answers) > 1 else answers[0]
            self.send_response(status)
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *words):
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/v1", asked, answers
    server.shutdown()
    server.server_close()


def chat(content: str) -> tuple[int, str]:
    return 200, json.dumps({"choices": [{"message": {"role": "assistant", "content": content}}]})


@pytest.fixture(scope="module")
def felled():
    state = meadow()
    state.objects = [state.player]
    x, y = state.player.target
    state.materials[x, y] = MATERIAL_INDEX["tree"]
    after, _ = transition(state, "do")
    return Record(CrafterView(), [(state, "do", after)])


def test_answers_become_laws(endpoint, felled):
    url, asked, answers = endpoint
    text = json.dumps([law_to_json(FELLING)])
    answers.append(chat(f"Here are the laws:\n```json\n{text}\n```\n"))
    model = LanguageModel(url, "tiny", key="secret")
    laws = propose_laws(felled, model)
    assert [(law.observable, law.outcomes, law.tests) for law in laws] == [
        (FELLING.observable, FELLING.outcomes, FELLING.tests)
    ]
    assert laws[0].source == "language model" and not model.refused
    path, headers, body = asked[0]
    assert path == "/v1/chat/completions" and headers["Authorization"] == "Bearer secret"
    assert body["model"] == "tiny"
    told = body["messages"][0]["content"]
    assert "player.inventory.wood: 0 became 1" in told and "target.material=tree" in told
    assert "secret" not in repr(model)


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ("import os; os.remove('x')", "answer is not valid JSON"),
        ('{"laws": []}', "answer must be a list, got an object"),
        ('[{"name": "x"}]', "answer[0] lacks 'scope'"),
        (json.dumps([{**law_to_json(FELLING), "scope": "dragon"}]), "unknown answer[0].scope"),
        (json.dumps([{**law_to_json(FELLING), "code": "print()"}]), "member of answer[0] 'code'"),
        ("[" * 100_000, "answer is nested too deeply"),
    ],
)
def test_what_does_not_parse_is_refused(endpoint, felled, answer, reason):
    url, _, answers = endpoint
    answers.append(chat(answer))
    model = LanguageModel(url, "tiny")
    assert propose_laws(felled, model) == []
    assert model.refused and all(reason in sentence for sentence in model.refused)


def test_good_laws_of_an_answer_survive_bad_ones(felled):
    model = LanguageModel("http://localhost:1/v1", "tiny")
    answer = json.dumps([{"name": "x"}, law_to_json(FELLING)])
    assert len(model.read(answer, felled.world)) == 1 and len(model.refused) == 1


def test_busy_endpoints_are_asked_again_and_broken_ones_named(endpoint):
    url, asked, answers = endpoint
    answers += [(503, "busy"), chat("[]")]
    assert LanguageModel(url, "tiny").ask("?") == "[]"
    assert len(asked) == 2
    answers[:] = [(401, "no")]
    with pytest.raises(UserError, match=f"the language model at {url} did not answer: HTTP 401"):
        LanguageModel(url, "tiny").ask("?")
    assert len(asked) == 3  # asked once: trying again would not help
    answers[:] = [(200, '{"choices": []}')]
    with pytest.raises(UserError, match=r"must have a text at choices\[0\].message.content"):
        LanguageModel(url, "tiny", tries=1).ask("?")
    with pytest.raises(UserError, match="url must be an http or https address, got 'ftp:x'"):
        LanguageModel("ftp:x", "tiny")


# --- Change detectors -------------------------------------------------------------------------


def changed(edit):
    state = meadow()
    x, y = state.player.position
    state.objects = [
        state.player, Zombie(2, (x + 1, y)), Cow(3, (x - 1, y)), Skeleton(4, (x, y - 1)),
        Arrow(5, (x + 1, y + 1)), Plant(6, (x - 1, y - 1)), Fence(7, (x + 1, y - 1)),
    ]  # fmt: skip
    after = state.copy()
    edit(after)
    return set(changed_aspects(Record(CrafterView(), [(state, "noop", after)]), 0))


def test_each_detector_sees_its_aspect_and_no_other():
    def shifted(index):
        def edit(after):
            px, py = after.objects[index].position
            after.objects[index].position = px, py + 3

        return edit

    assert changed(lambda after: None) == set()
    assert changed(lambda after: after.player.inventory.update(wood=3)) == {"player_inventory"}
    assert changed(shifted(0)) == {"player_position"}
    assert changed(lambda after: setattr(after.player, "health", 3)) == {"player_health"}
    assert changed(lambda after: after.materials.__setitem__(after.player.target, 2)) == {
        "map_tiles"
    }
    assert changed(shifted(1)) == {"zombies"}
    hurt = lambda after: setattr(after.objects[1], "health", 1)  # noqa: E731
    assert changed(hurt) == {"zombies", "zombie_health"}
    for index, aspect in ((2, "cows"), (3, "skeletons"), (4, "arrows"), (5, "plants")):
        assert changed(shifted(index)) == {aspect}
        assert changed(lambda after, i=index: after.objects.pop(i)) == {aspect}
    assert changed(shifted(6)) == {"fences"}
    assert len(ASPECTS) == 11
    far = lambda after: after.objects.append(Cow(8, (0, 0)))  # noqa: E731
    assert changed(far) <= {"cows"}


def test_each_family_is_told_once(felled):
    twice = Record(felled.world, felled.transitions * 2)
    assert telling_transitions(twice) == telling_transitions(felled)
    assert {aspect for _, aspect, _ in telling_transitions(felled)} == {
        "player_inventory", "map_tiles",
    }  # fmt: skip
