"""Liquidity scores for coins: data, search, evaluation, tracking and registry."""
