"""What outlives the process: jobs, their events and pictures, in the directory that the operator named."""
