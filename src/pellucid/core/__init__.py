"""Foundations shared by every other package: tensor types, contracts, registries, errors, seeding and the terminal."""
