"""Measure this machine: the implementation of `fnet-service bench`. The server does not import it."""
