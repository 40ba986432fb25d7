"""Command lines from documented dataclasses, with one sentence for what does not parse."""

import contextlib
import dataclasses
import io
import itertools
import re
import sys
import typing
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any, TypeVar

import tyro
from tyro.constructors import ConstructorRegistry, PrimitiveConstructorSpec, PrimitiveTypeInfo

from rlssm.errors import UserError, unknown_name

T = TypeVar("T")

_registry = ConstructorRegistry()
_options = (tyro.conf.AvoidSubcommands, tyro.conf.FlagConversionOff)

# How tyro words what it refuses, and how it is said here.
_WORDING = (
    (r"^Error parsing run[\w.]*: ", ""),  # the configuration's own words follow
    (r"^Error parsing (\S+): invalid literal for int.*?: (.*)$", r"\1 takes whole numbers, got \2"),
    (r"^Error parsing (\S+): could not convert .*?: (.*)$", r"\1 takes numbers, got \2"),
    (r"^Error parsing (\S+): Could not find .*: \[(.*)\]$", r"\1 does not take \2"),
    (r"^Error parsing (\S+): no type matching .* from \[(.*)\]\.$", r"\1 does not take \2"),
    (r"^Error parsing (\S+): ", r"\1: "),
    (r"^invalid choice (.*) for argument '(.*)'\. .* \((.*?),?\)\.$", r"\2 takes \3, got \1"),
    (r"^Missing value for argument '(.*)'\. .*$", r"\1 needs a value"),
    (r"^Missing from .*: (\S+) .*$", r"\1 is missing"),
    (r"^Unrecognized options: ", "no option takes "),
)

RunDirectory = Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]


@_registry.primitive_rule
def _sweep(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec | None:
    """Read `name=value,value` words into a dict of tuples."""
    if typing.get_origin(info.type) is not dict:
        return None

    def read(words: list[str]) -> dict[str, tuple[float, ...]]:
        split = [word.partition("=") for word in words]
        try:
            return {name: tuple(map(float, values.split(","))) for name, _, values in split}
        except ValueError:
            raise ValueError(f"expected NAME=VALUE,VALUE, got {' '.join(words)!r}") from None

    return PrimitiveConstructorSpec(
        nargs="*",
        metavar="NAME=V,V [...]",
        instance_from_str=read,
        is_instance=lambda value: isinstance(value, dict),
        str_from_instance=lambda sweep: [
            f"{name}={','.join(map(str, values))}" for name, values in sweep.items()
        ],
    )


def parse(
    kind: type[T],
    words: Sequence[str],
    *,
    command: str,
    description: str,
    default: T | None = None,
) -> T:
    """Return a `kind` built from the words of a command line.

    Raises:
        UserError: on an unknown option (with the nearest), or a value that does not fit.
        SystemExit: 0 after printing the help.
    """
    _check_options(words, options(kind if default is None else default))
    read: Callable[[], T] = partial(  # ty: ignore[invalid-assignment]: None is no default
        tyro.cli,
        kind,
        args=list(words),
        prog=command,
        description=description,
        default=default,
        config=_options,
        registry=_registry,
    )
    if wants_help(words):
        return read()
    complaint = io.StringIO()
    try:  # with both streams taken away, what tyro writes does not depend on the terminal
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(complaint):
            return read()
    except SystemExit:
        raise UserError(f"{_sentence(complaint.getvalue())}; see {command} --help") from None


def options(config: Any, prefix: str = "") -> list[str]:
    """Return the names of the options that set a configuration (or a flat dataclass type)."""
    kind = config if isinstance(config, type) else type(config)
    hints = typing.get_type_hints(kind, include_extras=True)
    names = []
    for field in dataclasses.fields(config):
        if tyro.conf.Positional in _metadata(hints[field.name]):
            continue
        value = None if config is kind else getattr(config, field.name)
        name = f"{prefix}{field.name}".replace("_", "-")
        if not dataclasses.is_dataclass(value):
            names.append(f"--{name}")
        else:
            flat = any(getattr(m, "name", None) == "" for m in _metadata(hints[field.name]))
            names += options(value, prefix if flat else f"{name}.")
    return names


def _metadata(hint: Any) -> tuple[Any, ...]:
    return getattr(hint, "__metadata__", ())


def _check_options(words: Sequence[str], known: Sequence[str]) -> None:
    """Raise a `UserError` for the first option that is not one of `known`."""
    for word in words:
        name = word.partition("=")[0].replace("_", "-")
        if name.startswith("--") and name not in (*known, "--help"):
            raise unknown_name("option", name, known)


def _sentence(complaint: str) -> str:
    """Return the first paragraph below the title of tyro's complaint, on one line."""
    lines = [line.strip() for line in complaint.splitlines()]
    body = itertools.dropwhile(_is_rule, lines[1:])
    text = re.sub(r"\s+", " ", " ".join(itertools.takewhile(lambda x: not _is_rule(x), body)))
    for theirs, ours in _WORDING:
        text = re.sub(theirs, ours, text)
    return text or "the command line does not parse"


def _is_rule(line: str) -> bool:
    return set(line) <= {"-"}


def take(words: list[str], option: str) -> tuple[str | None, list[str]]:
    """Return the value of an option and the words without it (None where it is absent)."""
    for i, word in enumerate(words):
        name, equals, value = word.partition("=")
        if name != option:
            continue
        if equals:
            return value, words[:i] + words[i + 1 :]
        if i + 1 == len(words) or words[i + 1].startswith("--"):
            raise UserError(f"{option} needs a value")
        return words[i + 1], words[:i] + words[i + 2 :]
    return None, words


def spelt_out(words: list[str], option: str) -> list[str]:
    """Return the words with `OPTION a=1 b=2` as `OPTION.a 1 OPTION.b 2`."""
    found: list[str] = []
    inside = False
    for word in words:
        name, equals, value = word.partition("=")
        if word == option:
            inside = True
        elif inside and not word.startswith("-"):
            if not equals:
                raise UserError(f"{option} takes NAME=VALUE, got {word!r}")
            found += [f"{option}.{name}", value]
        else:
            inside = False
            found.append(word)
    return found


def wants_help(words: Sequence[str]) -> bool:
    return any(word in ("-h", "--help") for word in words)


def say(text: str) -> None:
    print(text, file=sys.stdout, flush=True)
