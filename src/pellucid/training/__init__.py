"""Training as a generator of finished epochs, with resumable state."""
