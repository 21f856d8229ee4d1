-- 0001 queue indexes: unfinished runs of a conversation are found without reading its finished ones, and runs and
-- conversations by their ids alone.
-- Old replicas: not affected.
-- Locks: writes to runs and conversations while the indexes are built.

CREATE INDEX "conversations_id_idx" ON "conversations" USING btree ("id");--> statement-breakpoint
CREATE UNIQUE INDEX "runs_id_idx" ON "runs" USING btree ("id");--> statement-breakpoint
CREATE INDEX "runs_open_idx" ON "runs" USING btree ("organization_id","conversation_id","turn") WHERE "runs"."state" in ('queued', 'ready', 'delayed', 'running', 'absorbed');
