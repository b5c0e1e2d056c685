"""Embed the newest run and publish its index: ray job submit --working-dir . -- python jobs/index.py --config FILE."""

import sys

from mmray.cli import main

if __name__ == "__main__":
    sys.exit(main(["index", *sys.argv[1:]]))
