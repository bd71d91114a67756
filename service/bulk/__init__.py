"""Bulk encoding, `fnet-service encode`: files of rows to files of vectors. Serving never imports it."""
