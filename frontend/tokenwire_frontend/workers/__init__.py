"""The hop to the workers: one link each, and the pool that chooses among them."""
