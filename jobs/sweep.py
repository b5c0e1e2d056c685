"""Compare systems: ray job submit --working-dir . -- python jobs/sweep.py --config jobs/configs/sweep_lr.yaml."""

import sys

from mmray.cli import main

if __name__ == "__main__":
    sys.exit(main(["sweep", *sys.argv[1:]]))
