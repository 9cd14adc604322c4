"""What spans all tenants: the login lookup, the tenants themselves, the signing keys. Only here is the engine role taken.

A login names a username and no tenant, so its row must be found before the tenant is known; tenants are listed and created by
operators of the whole mesh; keys sign the tokens of every tenant.
"""
