"""Generated images: a text-to-image pipeline draws the pool, one row for every prompt and seed."""
