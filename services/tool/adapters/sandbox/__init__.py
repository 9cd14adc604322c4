"""Sandboxes: Docker where an engine answers, bubblewrap elsewhere; code never runs bare."""
