"""Bulk encoding, `fnet-service encode`: files of rows to files of vectors. The server does not import it."""
