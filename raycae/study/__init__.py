"""One study on disk and the life of its trials."""
