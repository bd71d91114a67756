"""Speed beside other libraries: one run, contenders taking turns; `make bench-peers`."""
