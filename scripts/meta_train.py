"""`rlssm train meta-ppo ...` as a plain script: `python scripts/meta_train.py --tasks classic`."""

import sys

from rlssm.cli.main import main

if __name__ == "__main__":
    main(["train", "meta-ppo", *sys.argv[1:]])
