"""How many people? ray job submit --working-dir . -- python jobs/power.py --config jobs/configs/power.yaml."""

import sys

from mmray.cli import main

if __name__ == "__main__":
    sys.exit(main(["power", *sys.argv[1:]]))
