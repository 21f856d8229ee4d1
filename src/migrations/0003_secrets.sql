-- 0003 secrets: where a secret may be sent, and settings of conversations that may hold credentials are kept sealed.
-- Old replicas: not affected. What they still write to settings in the clear nobody reads.
-- Locks: conversations while its small index is built, and the rows that hold such settings in the clear.

ALTER TABLE "conversations" ADD COLUMN "sealed_settings" text;--> statement-breakpoint
ALTER TABLE "conversations" ADD COLUMN "settings_key_id" text;--> statement-breakpoint
ALTER TABLE "secrets" ADD COLUMN "allowed_hosts" text[] DEFAULT '{}' NOT NULL;--> statement-breakpoint
CREATE INDEX "conversations_settings_key_idx" ON "conversations" USING btree ("settings_key_id") WHERE "conversations"."settings_key_id" is not null;--> statement-breakpoint
-- Until now they were stored in the clear and used by nothing.
UPDATE "conversations" SET "settings" = "settings" - 'mcpServers' WHERE "settings" ? 'mcpServers';
