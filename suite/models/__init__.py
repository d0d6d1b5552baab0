"""Models by source, warm between the jobs of a sweep. Importing this package does not import torch."""
