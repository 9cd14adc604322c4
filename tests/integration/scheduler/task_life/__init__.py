"""The life of tasks against a model: what is under test, what should be, and the moves that a machine makes."""
