-- 0001 open runs: the unfinished runs of a conversation are found without reading its finished ones.
-- Old replicas: not affected.
-- Locks: writes to runs while the index is built.

CREATE INDEX "runs_open_idx" ON "runs" USING btree ("organization_id","conversation_id","turn") WHERE "runs"."state" in ('queued', 'ready', 'delayed', 'running', 'absorbed');
