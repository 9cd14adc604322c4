"""The embedded mesh: every part of guildmesh on one machine, from wheels alone.

Owns how a part is started, checked, restarted and stopped (`parts`, `supervisor`), what the parts of a mesh are
(`plan`), the folder in which their state lies (`state`) and the operator's commands (`commands`). It knows the services
only as processes.
"""
