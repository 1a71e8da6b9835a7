"""Arrays in, a `matplotlib.figure.Figure` out."""
