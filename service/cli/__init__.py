"""What `fnet-service` can do, a command a file. Each imports what it needs when it runs: help is told at once."""
