"""Protocols: thin adapters over the engine, each with wire types, pure `parse` and `render` functions, and routes."""
