"""Architectures, networks, tasks and stored weights."""
