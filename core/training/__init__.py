"""What trainings of all applications share: where they run, how weights move, how a run is stopped and goes on."""
