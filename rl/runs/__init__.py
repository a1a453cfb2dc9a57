"""What stands around the loop: a run's folder, log, progress, pictures and video."""
