"""The engine: record a model's forward pass, propagate relevance back through it, and read hidden activations."""
