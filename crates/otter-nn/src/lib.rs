//! Layers with an explicit forward and backward, and the kernels under them.
