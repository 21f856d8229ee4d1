-- 0008 stream start: where a stream began, to tell which ends it is to be sent; and how each saved step left its turn.
-- Old replicas: not affected. Their streams count as begun at the first event, so a fresh stream of a new replica may wait two
-- seconds for word of them; of their steps nobody knows how they ended, as before.
-- Locks: usage_steps and stream_presence, for a moment.

ALTER TABLE "usage_steps" ADD COLUMN "finish" text;--> statement-breakpoint
ALTER TABLE "stream_presence" ADD COLUMN "after_seq" bigint DEFAULT 0 NOT NULL;