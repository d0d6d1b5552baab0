"""A tiny vision-language mixture of experts with three knobs, its four data sets, and the recipe of both."""
