"""The HTTP service over indexes: the calls of `Index`, clip-retrieval's contract, the explorer."""
