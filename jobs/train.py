"""Fit one fold: ray job submit --working-dir . -- python jobs/train.py --config FILE [--set train.num_workers=4]."""

import sys

from mmray.cli import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
