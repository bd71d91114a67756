"""Protocols: each one file of wire types, a pure `parse`, a pure `render`, and routes over the same engine."""
