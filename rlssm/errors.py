"""One place for the sentences that a user's mistake ends in.

Everything raised for a user's mistake is a `UserError`; the command line prints it as one
sentence and exits 2. It is a `ValueError`, so library callers need not know it.
"""

import difflib
from collections.abc import Iterable

SHOWN = 20  # names listed in full


class UserError(ValueError):
    """A mistake the user can mend; its text names the field, what was found and the remedy."""


def unknown_name(kind: str, name: str, known: Iterable[str]) -> UserError:
    """Return the error for a name that is not one of `known`, with the nearest suggested.

    Of many known names only the nearest are listed.
    """
    names = sorted(known)
    lowered = {candidate.lower(): candidate for candidate in reversed(names)}
    near = difflib.get_close_matches(name.lower(), lowered, n=SHOWN // 4, cutoff=0.4)
    meant = [lowered[candidate] for candidate in near]
    hint = f", perhaps {meant[0]!r} was meant" if meant else ""
    if len(names) > SHOWN and meant:
        return UserError(f"unknown {kind} {name!r}{hint}; the nearest: {', '.join(meant)}")
    return UserError(f"unknown {kind} {name!r}{hint}; known: {', '.join(names)}")


def require(condition: bool, field: str, value: object, expected: str) -> None:
    """Raise a `UserError` naming field, value and expectation unless the condition holds."""
    if not condition:
        raise UserError(f"{field} must be {expected}, got {value!r}")


def missing_package(package: str, extra: str, purpose: str) -> UserError:
    """Return the error for an optional package that is not installed."""
    return UserError(f"{purpose} needs {package}; install it with: pip install 'rlssm[{extra}]'")
