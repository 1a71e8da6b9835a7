"""All outputs by all inputs."""
