"""A C++ kernel for Jacobians of common networks on a CPU, compiled on the user's machine.

From autograd's graph to the Jacobian:

- `graph`: what the kernel can run of a graph, and how the parts are connected; `steps`: nodes that act on each element;
  `operations`: nodes that combine elements; `values`: what both are read into
- `program`: encoding as the words that `kernel.cpp` reads; `run`: running it on a chunk of images

The library:

- `build`: the library of this process: found in the cache, built on request, or built for a large job
- `cache`: the user's folder of compiled libraries, in which nothing damaged or foreign is loaded
- `compiler`: the system's C++ compiler
- `job`: the number of images of a whole job, by which building the kernel pays or not
- `decision`: one answer for all processes of a run
"""
