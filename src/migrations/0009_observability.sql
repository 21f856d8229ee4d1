-- 0009 observability: when a run last became claimable, when a reply was put on its queue, and the trace that both and
-- owed calls belong to.
-- Old replicas: not affected; they leave the columns empty, and a reply's time has a default.
-- Locks: runs, thread_response and outbox for a moment, in the order in which the end of a run locks them; no row is rewritten.

ALTER TABLE "runs" ADD COLUMN "ready_at" timestamp with time zone;--> statement-breakpoint
ALTER TABLE "thread_response" ADD COLUMN "traceparent" text;--> statement-breakpoint
ALTER TABLE "thread_response" ADD COLUMN "created_at" timestamp with time zone DEFAULT now() NOT NULL;--> statement-breakpoint
ALTER TABLE "outbox" ADD COLUMN "traceparent" text;