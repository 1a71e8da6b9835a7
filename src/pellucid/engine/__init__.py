"""The one place that reaches into a model: freezing it, and tapping a layer's activations."""
