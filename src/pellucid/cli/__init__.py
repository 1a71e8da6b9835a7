"""The `pellucid` command: parse the arguments, check every name, and only then import torch and run.

- `main`: `main`, which finds the command and turns errors into exit codes, and `entry`, the console script
- `_arguments`: `parse_arguments`, shared by the commands
- `run`, `inspect`, `explain`, `methods`, `evaluate`, `compare`, `ground_truth`, `report`, `serve`, `export`,
  `build_native`: one command each
"""

from pellucid.cli.main import entry, leave, main

__all__ = ["entry", "leave", "main"]
