"""Plotting functions that take arrays and return a `matplotlib.figure.Figure`.

Figures are laid out in dots (pixels of the saved picture): every part is as large as its content requires, and each
image pixel covers a whole number of dots. Save figures without `bbox_inches="tight"`, at their own dpi or a multiple.
"""
