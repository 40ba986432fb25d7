"""`rlssm evaluate RUN ...` as a plain script: `python scripts/evaluate.py runs/my-run`."""

import sys

from rlssm.cli.main import main

if __name__ == "__main__":
    main(["evaluate", *sys.argv[1:]])
