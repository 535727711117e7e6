"""What a worker of any kind needs, whatever it draws, speaks or reads. Imports nothing of `worker`."""
