"""Forecasts written down, scored when their day comes, and a champion that went stale replaced."""
