"""All errors that pellucid raises on purpose: `from pellucid.errors import PellucidError`."""

from pellucid.core.errors import (
    ConfigError,
    DataError,
    DownloadError,
    ModelError,
    PeerFailed,
    PellucidError,
    SaveError,
    ShapeError,
    TrainingError,
    UnknownName,
    UnsupportedOperation,
    WriteError,
)

__all__ = [
    "ConfigError",
    "DataError",
    "DownloadError",
    "ModelError",
    "PeerFailed",
    "PellucidError",
    "SaveError",
    "ShapeError",
    "TrainingError",
    "UnknownName",
    "UnsupportedOperation",
    "WriteError",
]
