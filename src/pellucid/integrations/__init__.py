"""Callbacks for the trainers of other libraries, with the figures, metrics and report of `pellucid.watch`.

`import pellucid` imports none of them, so import the module for your library.

- `lightning`: `PellucidCallback` for PyTorch Lightning's `Trainer`
- `transformers`: `PellucidCallback` for the `Trainer` of transformers
- `_metrics`: translates metric names to those of pellucid's learning curves
- `_training`: the watcher of a training, from start to end
"""
