"""Several processes that serve behind one address, and the one that watches over them."""
