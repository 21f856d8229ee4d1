-- 0007 retention: what is removed by its age is found by an index; the default organization is known whatever it is called;
-- a key knows the program that made it.
-- Old replicas: not affected. Keys that they make for programs do not end with what the program was given.
-- Locks: writes to usage_days, dead_letters, outbox, user_sessions, sign_in_rate_limits and api_keys while their indexes are
-- built; the others for a moment.

CREATE INDEX "usage_days_day_idx" ON "usage_days" USING btree ("day");--> statement-breakpoint
CREATE INDEX "dead_letters_created_idx" ON "dead_letters" USING btree ("created_at");--> statement-breakpoint
CREATE INDEX "outbox_created_idx" ON "outbox" USING btree ("created_at");--> statement-breakpoint
CREATE INDEX "sign_in_rate_limits_last_idx" ON "sign_in_rate_limits" USING btree ("last_request");--> statement-breakpoint
CREATE INDEX "user_sessions_expiry_idx" ON "user_sessions" USING btree ("expires_at");--> statement-breakpoint
ALTER TABLE "api_keys" ADD COLUMN "client_id" text;--> statement-breakpoint
ALTER TABLE "organizations" ADD COLUMN "is_default" boolean DEFAULT false NOT NULL;--> statement-breakpoint
CREATE INDEX "api_keys_ended_idx" ON "api_keys" USING btree (least("revoked_at", "expires_at"));--> statement-breakpoint
CREATE UNIQUE INDEX "organizations_default_idx" ON "organizations" USING btree ("is_default") WHERE "organizations"."is_default";--> statement-breakpoint
UPDATE "organizations" SET "is_default" = true WHERE "slug" = 'default';
