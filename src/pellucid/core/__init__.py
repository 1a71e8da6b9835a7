"""What every other part builds on: shapes, contracts, registries, errors, seeds and the terminal."""
