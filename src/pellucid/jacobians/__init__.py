"""Jacobians of a model: the derivative of every output with respect to every input.

- `_jacobian`: the functions `jacobian` and `jacobian_report`; `_plan` chooses the algorithm and the chunk size
- `_algorithms/`: the exact algorithms and finite differences, one file each
- `_problem`, `_watch`, `_graph`: what is differentiated, and what its forward pass shows about it
- `_augment`: a model that also returns its Jacobian; `_check`: the comparison with finite differences
- `_products`, `_spectrum`, `_class_means`: products with vectors, singular values and averages over classes
- `_classes`: the gradients of all classes, for attribution methods
- `_exact`, `_kernels`, `_leading`, `_rows`, `_double`, `_memory`: parts of the algorithms and of their checks
- `_native/`: a C++ kernel, compiled on this machine
- `_missing`, `_finite`: errors about derivatives that do not exist and about NaN
"""

from pellucid.jacobians._augment import Augmented, augment
from pellucid.jacobians._check import JacobianCheck, check_jacobian
from pellucid.jacobians._class_means import ClassMeans, jacobian_class_means
from pellucid.jacobians._jacobian import JacobianReport, jacobian, jacobian_report
from pellucid.jacobians._native.build import build_native
from pellucid.jacobians._products import jacobian_product, transposed_product
from pellucid.jacobians._spectrum import JacobianSpectrum, jacobian_spectrum

__all__ = [
    "Augmented",
    "ClassMeans",
    "JacobianCheck",
    "JacobianReport",
    "JacobianSpectrum",
    "augment",
    "build_native",
    "check_jacobian",
    "jacobian",
    "jacobian_class_means",
    "jacobian_product",
    "jacobian_report",
    "jacobian_spectrum",
    "transposed_product",
]
