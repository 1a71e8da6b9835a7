"""The runtime type checker for all signatures during tests; as in PEP 484, an int is accepted as a float."""

from beartype import BeartypeConf, beartype

check = beartype(conf=BeartypeConf(is_pep484_tower=True))
"""Referenced in `pyproject.toml`."""
