"""Handlers that record the operations of a forward pass; importing this package fills the table `OPERATIONS`.

- `layers`: convolutions, products with a constant matrix, pooling and interpolation
- `norms`: batch, layer, group, instance and RMS norm, statistics, dropout
- `elementwise`: activations, powers, roots, exponentials and logarithms; `register_elementwise` for others
- `arithmetic`: sums, products and quotients, einsum, and sums, means and maxima over axes
- `composed`: functions recorded as the simpler operations that they consist of
- `recurrent`: LSTM, GRU and plain recurrent layers, unrolled in time
- `fourier`: Fourier transforms
- `attention`: softmax, and attention decomposed into the operations above
- `moves`: views, permutations, slices, concatenation and padding
- `writes`: assignment, scattering, fills, and selections of sorted values
- `queries`: shapes and comparisons, and the functions that leave the graph, which are refused
"""

from importlib import import_module
from pkgutil import iter_modules

from pellucid.engine.installed import load_installed
from pellucid.engine.table import OPERATIONS, operation

__all__ = ["OPERATIONS", "operation"]

for _module in iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")  # its decorators enter the handlers
load_installed()
