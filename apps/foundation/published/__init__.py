"""Published foundation models, each put together from the parts of the core."""
