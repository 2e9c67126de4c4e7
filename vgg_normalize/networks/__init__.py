"""Networks as chains of layers, and what may be done to one."""
