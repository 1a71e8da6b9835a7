"""Settings of the commands: frozen dataclasses in which each field is a flag and its docstring the help text.

- `_run`: training, data, network and hooks; `_inspect`, `_explain`: trained models; `_saved`: saved runs and stores
- `_flags`: types of flags, with their description, parser and range; `_files`: settings from files, and as arguments
"""

from pellucid.config._explain import DatasetConfig, ExplainConfig
from pellucid.config._files import FLAGS, ONE_TIME_FLAGS, as_arguments, read_config
from pellucid.config._flags import check_device
from pellucid.config._inspect import InspectConfig
from pellucid.config._run import DataConfig, HookConfig, ModelConfig, RunConfig, TrainingConfig
from pellucid.config._saved import (
    CompareConfig,
    EvaluateConfig,
    ExportConfig,
    GroundTruthConfig,
    ReportConfig,
    ServeConfig,
)

__all__ = [
    "FLAGS",
    "ONE_TIME_FLAGS",
    "CompareConfig",
    "DataConfig",
    "DatasetConfig",
    "EvaluateConfig",
    "ExplainConfig",
    "ExportConfig",
    "GroundTruthConfig",
    "HookConfig",
    "InspectConfig",
    "ModelConfig",
    "ReportConfig",
    "RunConfig",
    "ServeConfig",
    "TrainingConfig",
    "as_arguments",
    "check_device",
    "read_config",
]
