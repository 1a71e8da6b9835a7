"""A generator of finished epochs, and what it can be continued from."""
