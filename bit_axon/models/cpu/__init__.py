"""How recognised models run on a processor: no padding, own kernels, written-out backward passes."""
