"""Measurement of this machine, `fnet-service bench`. The server does not import it."""
