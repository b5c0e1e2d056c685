"""Report a sweep: ray job submit --working-dir . -- python jobs/compare.py --config jobs/configs/sweep_lr.yaml."""

import sys

from mmray.cli import main

if __name__ == "__main__":
    sys.exit(main(["compare", *sys.argv[1:]]))
