"""`python -m pellucid` is the `pellucid` command."""

from pellucid.cli import entry

if __name__ == "__main__":
    entry()
