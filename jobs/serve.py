"""Serve the published index: ray job submit --working-dir . -- python jobs/serve.py --config FILE."""

import sys

from mmray.cli import main

if __name__ == "__main__":
    sys.exit(main(["serve", *sys.argv[1:]]))
