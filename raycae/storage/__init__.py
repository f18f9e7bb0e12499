"""Atomic files in local folders and object stores, retries, Parquet tables."""
