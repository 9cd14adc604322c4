"""Where the parts of identity are chosen and put together."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta

from guildmesh.identity.v1.identity_service_pb2_grpc import add_IdentityServiceServicer_to_server

from services.common.db.database import Database, open_database
from services.common.db.engine_role import EngineDatabase
from services.common.grpcx.channel import open_channel
from services.common.grpcx.server import Registration
from services.common.key_cipher import KeyCipher
from services.common.service import Background, Service
from services.identity.adapters.argon2_passwords import Argon2Passwords
from services.identity.adapters.event_keys import SchedulerEventKeys
from services.identity.adapters.key_ring import KeyRing
from services.identity.adapters.shared_secret import SharedSecretSigner
from services.identity.domain.password import PasswordPolicy
from services.identity.domain.ports import Passwords, TokenSigner
from services.identity.server.convert import keys_to_json
from services.identity.server.servicer import IdentityServicer, UseCases
from services.identity.settings import IdentitySettings, ServingSettings
from services.identity.storage.engine.erasures import PostgresErasures
from services.identity.storage.engine.logins import PostgresLogins
from services.identity.storage.engine.signing_keys import PostgresSigningKeys
from services.identity.storage.engine.tenants import PostgresTenants
from services.identity.storage.users import PostgresUsers
from services.identity.usecases.create_tenant import CreateTenant
from services.identity.usecases.create_user import CreateUser
from services.identity.usecases.create_watch_ticket import CreateWatchTicket
from services.identity.usecases.destroy_keys import DestroyKeys
from services.identity.usecases.ensure_user import EnsureUser
from services.identity.usecases.erase_user import EraseUser
from services.identity.usecases.get_json_web_key_set import GetJsonWebKeySet
from services.identity.usecases.get_user import GetUser
from services.identity.usecases.issue_token import IssueToken
from services.identity.usecases.list_tenants import ListTenants
from services.identity.usecases.list_users import ListUsers

SCHEMA = "identity"


@asynccontextmanager
async def open_service(settings: ServingSettings) -> AsyncIterator[Service]:
    """The identity service over the database of `settings`."""
    async with open_database(settings, SCHEMA) as database, open_channel(settings, "scheduler") as scheduler:
        engine = EngineDatabase(database)
        destroy_keys = DestroyKeys(PostgresErasures(engine), SchedulerEventKeys(scheduler))
        signer, background = _signer(settings, engine)
        passwords = Argon2Passwords()
        tenants = PostgresTenants(engine)
        users = PostgresUsers(database)
        key_set = GetJsonWebKeySet(signer)
        use_cases = UseCases(
            issue_token=IssueToken(PostgresLogins(engine), passwords, signer, settings.token_lifetime),
            create_watch_ticket=CreateWatchTicket(signer, settings.token_lifetime),
            get_json_web_key_set=key_set,
            create_user=_create_user(settings, database, passwords),
            get_user=GetUser(users),
            list_users=ListUsers(users),
            erase_user=EraseUser(users, destroy_keys),
            create_tenant=CreateTenant(tenants),
            list_tenants=ListTenants(tenants),
        )

        async def json_web_key_set() -> tuple[str, bytes]:
            return "application/json", keys_to_json(await key_set())

        yield Service(
            name="identity",
            registrations=[
                Registration(
                    add_IdentityServiceServicer_to_server,
                    IdentityServicer(use_cases, secure_cookies=settings.profile == "production"),
                    "guildmesh.identity.v1.IdentityService",
                )
            ],
            background=[*background, destroy_keys.run],
            checks={"database": database.check},
            admin_routes={"/.well-known/jwks.json": json_web_key_set},
        )


@asynccontextmanager
async def open_ensure_user(settings: IdentitySettings) -> AsyncIterator[EnsureUser]:
    """What `create-user` on the command line needs."""
    async with open_database(settings, SCHEMA) as database:
        tenants = PostgresTenants(EngineDatabase(database))
        yield EnsureUser(tenants, _create_user(settings, database, Argon2Passwords()))


def _create_user(settings: IdentitySettings, database: Database, passwords: Passwords) -> CreateUser:
    return CreateUser(PostgresUsers(database), passwords, PasswordPolicy.of_profile(settings.profile))


def _signer(settings: ServingSettings, engine: EngineDatabase) -> tuple[TokenSigner, list[Background]]:
    if settings.jwt_secret_key is not None:
        return SharedSecretSigner(settings.jwt_secret_key.get_secret_value(), settings.jwt_algorithm), []
    assert settings.master_key is not None  # ServingSettings asks for one of the two
    ring = KeyRing(
        PostgresSigningKeys(engine),
        KeyCipher(settings.master_key.get_secret_value()),
        rotation=timedelta(hours=settings.key_rotation_hours),
        lead=timedelta(minutes=settings.key_lead_minutes),
        token_life=settings.token_lifetime,
    )
    return ring, [ring.keep_fresh]
