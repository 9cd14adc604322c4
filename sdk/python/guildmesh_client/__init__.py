"""The client of guildmesh: the command line and the worker library; the generated stubs are in the package `guildmesh`."""
