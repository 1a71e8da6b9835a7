"""What is kept: the store with its manifest, and the TensorBoard writer."""
