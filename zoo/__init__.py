"""The embedded models and data, each with its card and the recipe that rebuilds it."""
