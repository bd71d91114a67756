"""HTTP layer shared by all protocols: middleware, bodies, encodings, statuses, connections."""
