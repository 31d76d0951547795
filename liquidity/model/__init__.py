"""The registered model: made, checked, loaded, compared."""
