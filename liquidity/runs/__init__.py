"""Runs in the MLflow store: can it be used, what is written, what crashes left."""
