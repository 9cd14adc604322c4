"""Webhooks where each tenant has topics of its own: how far a lane is in each of them, and of which topic an offset is.

How far a lane is in the topic of all tenants stays where it is, and a topic without a name is that one, so that processes of the
version before go on beside those of this one.
"""

from __future__ import annotations

from alembic import op

from services.common.db.migrations import enable_tenant_rls

revision = "0020"
down_revision = "0019"
branch_labels = None
depends_on = None

SCHEMA = "scheduler"

STATEMENTS = """
ALTER TABLE scheduler.webhook_lanes ADD COLUMN topic text NOT NULL DEFAULT '';
COMMENT ON COLUMN scheduler.webhook_lanes.topic IS 'which the positions are of';
ALTER TABLE scheduler.webhook_backlogs ADD COLUMN topic text NOT NULL DEFAULT '';
COMMENT ON COLUMN scheduler.webhook_backlogs.topic IS 'which the positions are of';
CREATE TABLE scheduler.webhook_places (
  lane      smallint NOT NULL,
  tenant_id text NOT NULL,
  topic     text NOT NULL,
  positions bigint[] NOT NULL,
  PRIMARY KEY (lane, tenant_id)
) WITH (fillfactor = 50);
COMMENT ON TABLE scheduler.webhook_places IS 'how far a lane is in the topic of one tenant';
COMMENT ON COLUMN scheduler.webhook_places.positions IS 'offsets of the next records'
"""

# The version before reads the topic of all tenants only: who was elsewhere begins there with what happens from now on.
DOWNGRADE = """
ALTER TABLE scheduler.webhooks NO FORCE ROW LEVEL SECURITY;
ALTER TABLE scheduler.webhook_backlogs NO FORCE ROW LEVEL SECURITY;
DELETE FROM scheduler.webhook_backlogs b USING scheduler.webhook_lanes l
WHERE l.lane = b.lane AND b.positions IS NOT NULL AND b.topic NOT IN ('', l.topic);
INSERT INTO scheduler.webhook_backlogs (tenant_id, uid, lane, start_time)
SELECT tenant_id, uid, lane, clock_timestamp() FROM scheduler.webhooks CROSS JOIN scheduler.webhook_lanes WHERE positions IS NULL
ON CONFLICT DO NOTHING;
ALTER TABLE scheduler.webhook_backlogs FORCE ROW LEVEL SECURITY;
ALTER TABLE scheduler.webhooks FORCE ROW LEVEL SECURITY;
DROP TABLE scheduler.webhook_places;
ALTER TABLE scheduler.webhook_backlogs DROP COLUMN topic;
ALTER TABLE scheduler.webhook_lanes DROP COLUMN topic
"""


def upgrade() -> None:
    """Adds them."""
    for statement in STATEMENTS.split(";\n"):
        op.execute(statement)
    enable_tenant_rls(SCHEMA, "webhook_places")


def downgrade() -> None:
    """Takes them away."""
    for statement in DOWNGRADE.split(";\n"):
        op.execute(statement)
