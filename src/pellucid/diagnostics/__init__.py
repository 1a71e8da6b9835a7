"""Diagnostics of a trained classifier: what the training data taught it, and how far its predictions can be trusted.

All functions take and return tensors; the hooks and sections of the same names apply them to a run.

- `dynamics`: confidence, variability and forgetting of training images, and when each class was learned

"""

from typing import TYPE_CHECKING

from pellucid.core.lazy import lazy_exports

if TYPE_CHECKING:
    from pellucid.diagnostics.dynamics import ClassLearning, TrainingDynamics, class_learning, training_dynamics

__all__ = ["ClassLearning", "TrainingDynamics", "class_learning", "training_dynamics"]

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "ClassLearning": ".dynamics",
        "TrainingDynamics": ".dynamics",
        "class_learning": ".dynamics",
        "training_dynamics": ".dynamics",
    },
)
