"""Run the `pellucid` command with `python -m pellucid`."""

from pellucid.cli import entry

if __name__ == "__main__":
    entry()
