"""Networks that stylise in one pass: layers, networks, training, saved networks."""
