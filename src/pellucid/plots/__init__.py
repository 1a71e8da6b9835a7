"""Arrays in, a `matplotlib.figure.Figure` out.

Every picture is laid out in dots: its parts are as large as what they show needs, and an image's pixels are whole
numbers of dots. Save figures as they are (no `bbox_inches="tight"`), at their own dpi or a multiple.
"""
