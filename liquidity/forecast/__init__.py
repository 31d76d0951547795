"""Liquidity some days ahead: what to learn from, what to beat, and how sure a forecast is."""
