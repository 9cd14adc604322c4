"""Memory service: conversations, and what agents remember.

Owns conversations, messages and memories with their embeddings; the schema `memory`. Answers `guildmesh.memory.v1.MemoryService`.
Calls no other service: the embedding model runs in the process.
"""
