"""A pruner without parameters, and its test."""
