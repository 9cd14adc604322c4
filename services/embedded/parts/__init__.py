"""The parts of the embedded mesh: one module for each kind of process."""
