"""Speed compared with other libraries and servers in one run, candidates alternating; `make bench-peers`."""
