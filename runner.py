"""Train a network and report what it learned; the same as `pellucid run`. See `python runner.py --help`."""

import sys

try:
    from pellucid.cli import leave, main
except ModuleNotFoundError as error:
    sys.exit(f"{error}. Install pellucid and its dependencies first: pip install -e .")

if __name__ == "__main__":
    leave(main(["run", *sys.argv[1:]]))
