"""Find and prepare the recordings: ray job submit --working-dir . -- python jobs/prepare.py --config FILE."""

import sys

from mmray.cli import main

if __name__ == "__main__":
    sys.exit(main(["recordings", *sys.argv[1:]]) or main(["prepare", *sys.argv[1:]]))
