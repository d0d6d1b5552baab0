"""The steps of the study, one file each; `bench.py` knows their order and what each needs of the others."""
