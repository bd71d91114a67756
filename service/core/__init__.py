"""The encoder as a service, without HTTP: queue, batches, results, errors and events."""
