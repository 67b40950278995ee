"""A pruner with learned parameters, and its test."""
