"""Train a network and see what it has learned: `python runner.py --help` (the same as `pellucid run`)."""

import sys

try:
    from pellucid.cli import leave, main
except ModuleNotFoundError as error:
    sys.exit(f"{error}. Install pellucid and what it needs first, in this folder: pip install -e .")

if __name__ == "__main__":
    leave(main(["run", *sys.argv[1:]]))
