"""A thin Flask front end over the champion in the registry; `python -m serve` runs it."""
