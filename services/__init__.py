"""The services of guildmesh, one package each.

identity, scheduler, agent, tool, memory and monitor are the deployables; `common` is what they share and imports none of them;
`embedded` starts all of them on one machine. A service never imports another: it calls it through the generated stubs.
"""
