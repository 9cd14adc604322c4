"""How monitor asks the rest of the mesh."""
