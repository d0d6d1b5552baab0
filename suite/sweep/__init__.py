"""A sweep seen as a whole: which of its jobs are done, what the others will take, and how far it is."""
