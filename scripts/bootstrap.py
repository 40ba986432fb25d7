"""Make `.venv` beside this checkout with pinned versions, then run a command in it.

    python3 scripts/bootstrap.py rlssm train ppo --env RepeatFirstEasy
    python3 scripts/bootstrap.py pytest

Needs nothing but Python 3.11 or newer with pip and venv. The environment is made once and made
again when the pins or the dependencies change.
"""

import hashlib
import os
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
VENV = ROOT / ".venv"
OLDEST, NEWEST = (3, 11), (3, 13)


def constraints() -> Path:
    """Return the file of exact versions for this Python."""
    version = sys.version_info[:2]
    if not OLDEST <= version <= NEWEST:
        sys.exit(
            f"rlssm needs Python {OLDEST[0]}.{OLDEST[1]} to {NEWEST[0]}.{NEWEST[1]}, "
            f"this is {version[0]}.{version[1]}; run this script with another python3"
        )
    return ROOT / "constraints" / f"python{version[0]}.{version[1]}.txt"


def install(pins: Path) -> None:
    """Make the environment unless the one there was made from the same files."""
    stamp = VENV / "rlssm-stamp"
    wanted = hashlib.sha256(pins.read_bytes() + (ROOT / "pyproject.toml").read_bytes()).hexdigest()
    if stamp.is_file() and stamp.read_text() == wanted:
        return
    print(f"Installing into {VENV} ...", file=sys.stderr, flush=True)
    venv.create(VENV, with_pip=True, clear=True)
    pip = [VENV / "bin" / "python", "-m", "pip", "--disable-pip-version-check", "install", "-q"]
    subprocess.run([*pip, "-c", pins, "-e", f"{ROOT}[dev]"], check=True)
    stamp.write_text(wanted)


def main(command: list[str]) -> None:
    if not command:
        sys.exit(__doc__)
    try:
        install(constraints())
    except (subprocess.CalledProcessError, OSError) as error:
        sys.exit(f"rlssm could not be installed into {VENV}: {error}")
    programs = VENV / "bin"
    environment = os.environ | {"PATH": f"{programs}{os.pathsep}{os.environ['PATH']}"}
    try:
        os.execvpe(str(programs / command[0]), command, environment)
    except FileNotFoundError:
        os.execvpe(command[0], command, environment)


if __name__ == "__main__":
    main(sys.argv[1:])
