"""Files of a run: the store with its manifest, and the TensorBoard writer."""
