"""The commands of `fnet-service`, one per module. Large libraries are imported only when a command runs."""
