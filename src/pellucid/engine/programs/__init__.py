"""Networks as small programs: layers, shapes and weights, which an interpreter without torch can run.

- `program`: `Program`, the list of steps with their weights
- `export`: from a recorded forward pass to a program
- `windows`: pooling and resampling, as rows and columns of weights
- `functions`: activation functions, recognized by their values
- `interpreter`: a plain numpy interpreter, the reference for the one in the report
"""
