"""The protocols that clients speak: each one file of wire types, a pure parse, a pure render, and a router."""
