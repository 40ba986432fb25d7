"""`rlssm train ppo ...` as a plain script: `python scripts/train.py ppo --env CartPole-v1`."""

import sys

from rlssm.cli.main import main

if __name__ == "__main__":
    main(["train", *sys.argv[1:]])
