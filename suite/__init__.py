"""The floor every study stands on: configuration, models, hardware, records, quality, statistics, reports."""
