"""The list of explanation methods, one file per method or family."""
