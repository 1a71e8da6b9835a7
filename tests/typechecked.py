"""The checker of every signature in the test run; as annotations mean it, an int is a float."""

from beartype import BeartypeConf, beartype

check = beartype(conf=BeartypeConf(is_pep484_tower=True))
"""Named in `pyproject.toml`."""
