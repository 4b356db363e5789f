"""The engine: the only part that may import torch and its kin. It runs in a worker process."""
