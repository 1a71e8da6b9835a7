"""Foundations that import nothing else of pellucid: any other package may use them.

- `types`, `contracts`: tensor types with named axes, and the data types that packages exchange
- `errors`: all errors; `finite`, `options`, `ranges`: checks of tensors and options
- `registry`: named entries, one file each; `installed`: those of installed packages; `lazy`: names imported on first
  use; `importing`: MODULE:FUNCTION, and optional libraries
- `listing`: comma-separated names; `terminal`: console and progress; `opening`: the browser; `text`: text that can be
  stored; `showing`, `cards`: short reprs of results, and HTML for notebooks
- `seeding`: random numbers by seed and place; `isolation`: one thread at a time, without the caller's torch modes
- `checksum`: checksums of tensors and models; `origin`: the run that a model comes from
- `files`, `raster`: untrusted files and images; `preprocessing`: from a PIL image to a model's input
- `budget`: limits on the cost of hooks; `multiple_tests`: corrected p-values
"""
