"""Metrics, traces and logs: adapters over the events of the core."""
