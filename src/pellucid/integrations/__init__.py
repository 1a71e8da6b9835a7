"""Callbacks that watch a training of another library: the pictures, metrics and report of `pellucid.watch`.

Import the module of your library; neither is imported with pellucid.

- `lightning`: `PellucidCallback` for PyTorch Lightning's `Trainer`
- `transformers`: `PellucidCallback` for the `Trainer` of transformers
- `_metrics`: names of metrics as pellucid's learning curves use them
- `_training`: a watched training, from its start to its end
"""
