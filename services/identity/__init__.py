"""Identity service: who someone is.

Owns tenants, users and their passwords, the keys that sign tokens, and the tokens; the schema `identity`. Answers
`guildmesh.identity.v1.IdentityService`, and the key set as plain HTTP on its admin port, where Envoy fetches it. Calls no other
service.
"""
