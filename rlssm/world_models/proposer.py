"""Laws proposed by a language model, through any endpoint that speaks OpenAI's chat protocol.

The model is shown one transition, one aspect that changed and the vocabulary; it answers with laws
as JSON data. What does not parse, or speaks of what the world does not have, is refused; nothing
of an answer is ever executed. Nothing here runs unless a `LanguageModel` is made and passed on.

Source: One Life to Learn (arXiv 2510.12088), one request for each transition and aspect. There
the answers are programs; here they are data.
"""

import json
import re
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol
from urllib.parse import urlsplit

from rlssm.errors import UserError, require
from rlssm.world_models.aspects import telling_transitions
from rlssm.world_models.json_reader import parse_json, shorten
from rlssm.world_models.law_json import law_from_json
from rlssm.world_models.laws import Law
from rlssm.world_models.object_view import Key, Numbers, World
from rlssm.world_models.record import Record

MAX_ANSWER = 2**20  # bytes
MAX_LAWS = 50  # of one answer
SOURCE = "language model"

FORMAT = """\
A law says: for each object in its scope, when the action is one of some and all tests hold, an
observable has one of some outcomes. Answer with a JSON list of laws and nothing else. A law is
{"name": TEXT, "scope": SCOPE, "actions": [ACTION, ...] (leave it out for any action),
 "when": [{"feature": FEATURE, "is": "==" | "!=" | "<" | "<=" | ">" | ">=", "value": VALUE}, ...],
 "observable": {"of": OWNER, "attribute": ATTRIBUTE},
 "outcomes": [{TERM, "logit": LOG PROBABILITY}, ...]}
where TERM is one of "set": VALUE, "add": NUMBER, "read": FEATURE, "step": DIRECTION or FEATURE.
Write one law for each mechanism, as general as what you see allows, with values relative to the
object, never with ids or places. Where several things can happen, give each an outcome."""


class Proposer(Protocol):
    """Anything that makes laws from a transition and what changed in it."""

    def propose(self, record: Record, transition: int, keys: Sequence[Key]) -> list[Law]:
        """Return laws that may explain why `keys` changed."""
        ...


@dataclass
class LanguageModel:
    """A chat model behind an OpenAI-compatible endpoint.

    Attributes:
      url: up to and including the version, such as `http://localhost:8000/v1`.
      model: its name there.
      key: sent as a bearer token, where one is needed.
      temperature: of sampling.
      max_tokens: of an answer.
      timeout: seconds for one request.
      tries: how often a request is made before it is given up.
      refused: why answers or laws were refused, a sentence each.
    """

    url: str
    model: str
    key: str | None = field(default=None, repr=False)
    temperature: float = 1.0
    max_tokens: int = 4096
    timeout: float = 60.0
    tries: int = 3
    refused: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        known = urlsplit(self.url).scheme in ("http", "https") and urlsplit(self.url).netloc
        require(bool(known), "url", self.url, "an http or https address")
        require(self.tries >= 1, "tries", self.tries, "at least 1")

    def propose(self, record: Record, transition: int, keys: Sequence[Key]) -> list[Law]:
        """Return the laws of one answer that parse.

        Raises:
          UserError: if the endpoint does not answer.
        """
        answer = self.ask(prompt(record, transition, keys))
        return self.read(answer, record.world)

    def ask(self, question: str) -> str:
        """Return the endpoint's answer to one message.

        Raises:
          UserError: naming the address and what went wrong, after the last try.
        """
        body = {
            "model": self.model,
            "messages": [{"role": "user", "content": question}],
            "temperature": self.temperature,
            "max_tokens": self.max_tokens,
        }
        reason = ""
        for attempt in range(self.tries):
            try:
                return self._request(body)
            except urllib.error.HTTPError as error:
                reason = f"HTTP {error.code}"
                if error.code not in (408, 429) and error.code < 500:
                    break
            except (OSError, UserError) as error:
                reason = str(getattr(error, "reason", error))
            if attempt + 1 < self.tries:
                time.sleep(0.2 * 2**attempt)
        raise UserError(f"the language model at {self.url} did not answer: {shorten(reason, 200)}")

    def _request(self, body: dict[str, Any]) -> str:
        headers = {"Content-Type": "application/json"}
        if self.key is not None:
            headers["Authorization"] = f"Bearer {self.key}"
        request = urllib.request.Request(
            self.url.rstrip("/") + "/chat/completions", json.dumps(body).encode(), headers
        )
        with urllib.request.urlopen(request, timeout=self.timeout) as response:
            text = response.read(MAX_ANSWER + 1)
        require(len(text) <= MAX_ANSWER, "the answer", len(text), f"at most {MAX_ANSWER} bytes")
        value = parse_json(text, "the answer").value
        try:
            content = value["choices"][0]["message"]["content"]
        except (KeyError, IndexError, TypeError):
            content = None
        if not isinstance(content, str):
            raise UserError("the answer must have a text at choices[0].message.content")
        return content

    def read(self, answer: str, world: World) -> list[Law]:
        """Return the laws an answer holds; what is refused is noted in `refused`."""
        fenced = re.search(r"```(?:json)?\s*\n(.*?)```", answer, re.DOTALL)
        text = fenced.group(1) if fenced else answer
        try:
            nodes = parse_json(text.strip(), "answer").items(MAX_LAWS)
        except UserError as error:
            self.refused.append(str(error))
            return []
        laws = []
        for node in nodes:
            try:
                laws.append(replace(law_from_json(node, world), source=SOURCE))
            except UserError as error:
                self.refused.append(str(error))
        return laws


def propose_laws(
    record: Record, proposer: Proposer, progress: Callable[[str], None] = lambda text: None
) -> list[Law]:
    """Return what a proposer makes of every telling transition, each law once."""
    found: dict[Law, None] = {}
    for transition, aspect, keys in telling_transitions(record):
        laws = proposer.propose(record, transition, keys)
        progress(f"transition {transition}, {aspect}: {len(laws)} laws")
        found.update(dict.fromkeys(replace(law, name="") for law in laws))
    return list(found)


# --- What the model is shown ------------------------------------------------------------------


def prompt(record: Record, transition: int, keys: Sequence[Key]) -> str:
    """Return the message about one transition and what changed in it."""
    scene = record.scenes[transition]
    changes = record.changes[transition]
    changed = [f"- {key.family}: {scene.old(key)!r} became {changes.values[key]!r}" for key in keys]
    kinds = sorted({key.kind for key in keys} & record.world.scopes.keys())
    scopes = kinds if "player" in kinds else ["player", *kinds]
    parts = [
        "A world of objects changes step by step. Find the laws that explain what changed.",
        FORMAT,
        f"Actions: {', '.join(record.world.actions)}.",
        *(_vocabulary(record.world, scope) for scope in scopes if scope in record.world.scopes),
        f"The action was {scene.action}. What could be read before it:",
        *(_reading(record, transition, scope) for scope in scopes if scope in record.world.scopes),
        "What changed:",
        *changed,
    ]
    return "\n".join(parts)


def _vocabulary(world: World, scope: str) -> str:
    vocabulary = world.scopes[scope]
    observables = ", ".join(f"{o.of} {o.attribute}" for o in vocabulary.observables)
    features = ", ".join(
        f"{name} ({domain.low:g} to {domain.high:g})" if isinstance(domain, Numbers) else name
        for name, domain in vocabulary.features.items()
    )
    return f"Scope {scope}. Features: {features}. Observables (owner, attribute): {observables}."


def _reading(record: Record, transition: int, scope: str) -> str:
    scene = record.scenes[transition]
    lines = []
    for binding in scene.bindings(scope)[:3]:
        values = {name: scene.read(binding, name) for name in record.world.scopes[scope].features}
        shown = ", ".join(f"{k}={v}" for k, v in values.items() if v not in (None, 0, False))
        lines.append(f"- {scope}: {shown}")
    return "\n".join(lines)
