"""The value of --dataset is checked before anything heavy is imported."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import pellucid
from pellucid.core.errors import ConfigError, UnknownName
from pellucid.data._spec import FUNCTION, check_spec, parse_spec


@pytest.mark.parametrize(
    ("spec", "parsed"),
    [
        ("auto", ("auto", "")),
        ("mnist", ("mnist", "")),
        ("digits", ("digits", "")),
        ("folder:/a b/c:d", ("folder", "/a b/c:d")),
        ("shop.data:shoes", (FUNCTION, "shop.data:shoes")),
        ("torchvision:CIFAR10", ("torchvision", "CIFAR10")),
        ("hf:owner/name?split=test", ("hf", "owner/name?split=test")),
        ("parquet:folder", ("parquet", "folder")),
        ("photos.npz", ("numpy", "photos.npz")),
        ("C:/photos.NPY", ("numpy", "C:/photos.NPY")),
        ("a.b.parquet?label=kind", ("parquet", "a.b.parquet?label=kind")),
    ],
)
def test_valid_specs_are_parsed(spec: str, parsed: tuple[str, str]) -> None:
    assert parse_spec(spec) == parsed
    check_spec(spec)


@pytest.mark.parametrize(
    ("spec", "error", "message"),
    [
        ("minst", UnknownName, "no data set 'minst'; did you mean 'mnist'"),
        ("digit", UnknownName, "did you mean 'digits'"),
        ("foldr:/photos", UnknownName, "did you mean 'folder:PATH'"),
        ("", UnknownName, "Available: auto, confound, confound.control, digits, folder:PATH, hf:NAME-OR-FOLDER, mnist"),
        ("shop.data:", UnknownName, "no data set"),
        ("folder", ConfigError, "use --dataset folder:PATH"),
        ("folder:", ConfigError, "use --dataset folder:PATH"),
        ("hf:", ConfigError, "--dataset hf: does not name a data set; use --dataset hf:NAME-OR-FOLDER"),
        ("torchvision", ConfigError, "use --dataset torchvision:NAME"),
        ("hf:mnist?label", ConfigError, "'label' in --dataset …mnist?label is not an option"),
        ("mnist:10", ConfigError, "takes no argument after a colon, got 'mnist:10'; use --dataset mnist"),
    ],
)
def test_the_error_for_an_invalid_spec_names_the_fix(spec: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error) as caught:
        check_spec(spec)
    assert message in str(caught.value)


def test_checking_a_spec_does_not_import_torch() -> None:
    code = (
        "import sys; from pellucid.data._spec import check_spec; check_spec('auto'); check_spec('a.b:c'); "
        "sys.exit(any(name in sys.modules for name in ('torch', 'sklearn', 'PIL', 'numpy')))"
    )
    environment = os.environ | {"PYTHONPATH": str(Path(pellucid.__file__).parents[1])}
    assert subprocess.run([sys.executable, "-c", code], env=environment, check=False).returncode == 0
