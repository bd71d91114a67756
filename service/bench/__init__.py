"""Measure this machine: what `fnet-service bench` does. Nothing that serves imports it."""
