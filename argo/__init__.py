"""ARGO: retrieval guided by a Markov decision process. Start at task.py."""
