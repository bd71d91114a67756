"""HTTP for all protocols: middleware, bodies, encodings, statuses, connections."""
