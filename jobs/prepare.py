"""Find and prepare the recordings: ray job submit --working-dir . -- python jobs/prepare.py --config FILE."""

import sys

from mmray.cli import main

if __name__ == "__main__":
    given = sys.argv[1:]
    found = main(["recordings", *(word for word in given if word != "--strict")])  # which is prepare's alone
    sys.exit(found or main(["prepare", *given]))
