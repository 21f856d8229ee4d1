-- 0000 init: accounts, agents, conversations, runs, replies, the event log.
-- Old replicas: none exist.
-- Locks: none on existing tables.

CREATE EXTENSION IF NOT EXISTS vector;
--> statement-breakpoint
CREATE TABLE "agents" (
	"organization_id" text NOT NULL,
	"id" text NOT NULL,
	"name" text NOT NULL,
	"description" text DEFAULT '' NOT NULL,
	"model" text,
	"instructions" text DEFAULT '' NOT NULL,
	"is_default" boolean DEFAULT false NOT NULL,
	"created_at" timestamp with time zone DEFAULT now() NOT NULL,
	"updated_at" timestamp with time zone DEFAULT now() NOT NULL,
	"last_used_at" timestamp with time zone,
	CONSTRAINT "agents_pkey" PRIMARY KEY("organization_id","id"),
	CONSTRAINT "agents_id_check" CHECK ("agents"."id" ~ '^[a-z][a-z0-9-]{2,59}$')
);
--> statement-breakpoint
CREATE TABLE "api_keys" (
	"organization_id" text NOT NULL,
	"id" text NOT NULL,
	"user_id" text,
	"name" text NOT NULL,
	"token_hash" text NOT NULL,
	"token_prefix" text NOT NULL,
	"created_at" timestamp with time zone DEFAULT now() NOT NULL,
	"expires_at" timestamp with time zone,
	"revoked_at" timestamp with time zone,
	CONSTRAINT "api_keys_pkey" PRIMARY KEY("organization_id","id"),
	CONSTRAINT "api_keys_token_hash_key" UNIQUE("token_hash")
);
--> statement-breakpoint
CREATE TABLE "conversations" (
	"organization_id" text NOT NULL,
	"id" text NOT NULL,
	"agent_id" text NOT NULL,
	"user_id" text NOT NULL,
	"thread" text NOT NULL,
	"status" text DEFAULT 'active' NOT NULL,
	"resumable" boolean DEFAULT true NOT NULL,
	"settings" jsonb DEFAULT '{}'::jsonb NOT NULL,
	"last_turn" bigint DEFAULT 0 NOT NULL,
	"open_runs" integer DEFAULT 0 NOT NULL,
	"last_seq" bigint DEFAULT 0 NOT NULL,
	"end_seq" bigint DEFAULT 0 NOT NULL,
	"pruned_seq" bigint DEFAULT 0 NOT NULL,
	"worker_replica" text,
	"created_at" timestamp with time zone DEFAULT now() NOT NULL,
	"last_activity_at" timestamp with time zone DEFAULT now() NOT NULL,
	CONSTRAINT "conversations_pkey" PRIMARY KEY("organization_id","id"),
	CONSTRAINT "conversations_status_check" CHECK ("conversations"."status" in ('active', 'ended')),
	CONSTRAINT "conversations_settings_check" CHECK (jsonb_typeof("conversations"."settings") = 'object'),
	CONSTRAINT "conversations_open_runs_check" CHECK ("conversations"."open_runs" >= 0)
);
--> statement-breakpoint
CREATE TABLE "dead_letters" (
	"organization_id" text NOT NULL,
	"id" uuid NOT NULL,
	"queue" text NOT NULL,
	"payload" jsonb NOT NULL,
	"error" text NOT NULL,
	"attempts" integer NOT NULL,
	"created_at" timestamp with time zone DEFAULT now() NOT NULL,
	CONSTRAINT "dead_letters_pkey" PRIMARY KEY("organization_id","id")
);
--> statement-breakpoint
CREATE TABLE "event_log" (
	"organization_id" text NOT NULL,
	"conversation_id" text NOT NULL,
	"first_seq" bigint NOT NULL,
	"last_seq" bigint NOT NULL,
	"events" text NOT NULL,
	"created_at" timestamp with time zone DEFAULT now() NOT NULL,
	CONSTRAINT "event_log_pkey" PRIMARY KEY("organization_id","conversation_id","last_seq"),
	CONSTRAINT "event_log_range_check" CHECK ("event_log"."first_seq" <= "event_log"."last_seq")
);
--> statement-breakpoint
CREATE TABLE "file_chunks" (
	"organization_id" text NOT NULL,
	"file_id" text NOT NULL,
	"ordinal" integer NOT NULL,
	"data" "bytea" NOT NULL,
	CONSTRAINT "file_chunks_pkey" PRIMARY KEY("organization_id","file_id","ordinal")
);
--> statement-breakpoint
CREATE TABLE "files" (
	"organization_id" text NOT NULL,
	"id" text NOT NULL,
	"conversation_id" text NOT NULL,
	"message_id" text,
	"name" text NOT NULL,
	"media_type" text NOT NULL,
	"bytes" bigint NOT NULL,
	"sha256" text NOT NULL,
	"created_at" timestamp with time zone DEFAULT now() NOT NULL,
	CONSTRAINT "files_pkey" PRIMARY KEY("organization_id","id")
);
--> statement-breakpoint
CREATE TABLE "members" (
	"organization_id" text NOT NULL,
	"user_id" text NOT NULL,
	"role" text NOT NULL,
	"created_at" timestamp with time zone DEFAULT now() NOT NULL,
	CONSTRAINT "members_pkey" PRIMARY KEY("organization_id","user_id"),
	CONSTRAINT "members_role_check" CHECK ("members"."role" in ('owner', 'admin', 'member', 'viewer'))
);
--> statement-breakpoint
CREATE TABLE "messages" (
	"organization_id" text NOT NULL,
	"conversation_id" text NOT NULL,
	"id" text NOT NULL,
	"run_id" uuid NOT NULL,
	"turn" bigint NOT NULL,
	"position" integer NOT NULL,
	"role" text NOT NULL,
	"content" jsonb NOT NULL,
	"text" text NOT NULL,
	"body_hash" text,
	"model" text,
	"usage" jsonb,
	"created_at" timestamp with time zone DEFAULT now() NOT NULL,
	CONSTRAINT "messages_pkey" PRIMARY KEY("organization_id","conversation_id","id"),
	CONSTRAINT "messages_role_check" CHECK ("messages"."role" in ('user', 'assistant', 'tool')),
	CONSTRAINT "messages_content_check" CHECK (jsonb_typeof("messages"."content") = 'object')
);
--> statement-breakpoint
CREATE TABLE "organizations" (
	"id" text PRIMARY KEY NOT NULL,
	"slug" text NOT NULL,
	"name" text NOT NULL,
	"created_at" timestamp with time zone DEFAULT now() NOT NULL,
	CONSTRAINT "organizations_slug_key" UNIQUE("slug")
);
--> statement-breakpoint
CREATE TABLE "outbox" (
	"organization_id" text NOT NULL,
	"id" uuid NOT NULL,
	"kind" text NOT NULL,
	"target" text NOT NULL,
	"target_host" text GENERATED ALWAYS AS (left(coalesce(lower(substring(target from '^[^/]*//([^/?#]*)')), ''), 253)) STORED NOT NULL,
	"payload" jsonb NOT NULL,
	"attempt" integer DEFAULT 0 NOT NULL,
	"ready" boolean DEFAULT true NOT NULL,
	"due_at" timestamp with time zone DEFAULT now() NOT NULL,
	"created_at" timestamp with time zone DEFAULT now() NOT NULL,
	CONSTRAINT "outbox_pkey" PRIMARY KEY("organization_id","id"),
	CONSTRAINT "outbox_payload_check" CHECK (jsonb_typeof("outbox"."payload") = 'object')
);
--> statement-breakpoint
CREATE TABLE "replicas" (
	"id" text PRIMARY KEY NOT NULL,
	"version" text NOT NULL,
	"lease_until" timestamp with time zone NOT NULL,
	"started_at" timestamp with time zone DEFAULT now() NOT NULL
);
--> statement-breakpoint
CREATE TABLE "runs" (
	"organization_id" text NOT NULL,
	"id" uuid NOT NULL,
	"conversation_id" text NOT NULL,
	"ordinal" bigint GENERATED ALWAYS AS IDENTITY (sequence name "runs_ordinal_seq" INCREMENT BY 1 MINVALUE 1 MAXVALUE 9223372036854775807 START WITH 1 CACHE 1),
	"turn" bigint NOT NULL,
	"message_id" text NOT NULL,
	"state" text NOT NULL,
	"attempt" integer DEFAULT 0 NOT NULL,
	"fence" bigint DEFAULT 0 NOT NULL,
	"reply_batch" integer DEFAULT 0 NOT NULL,
	"replica" text,
	"lease_until" timestamp with time zone,
	"due_at" timestamp with time zone,
	"preferred_replica" text,
	"steer" boolean DEFAULT false NOT NULL,
	"absorbed_by" uuid,
	"webhook_url" text,
	"traceparent" text,
	"model" text,
	"start_seq" bigint,
	"end_seq" bigint,
	"end_seen_at" timestamp with time zone,
	"result_text" text,
	"usage" jsonb,
	"error_code" text,
	"error_message" text,
	"created_at" timestamp with time zone DEFAULT now() NOT NULL,
	"started_at" timestamp with time zone,
	"ended_at" timestamp with time zone,
	CONSTRAINT "runs_pkey" PRIMARY KEY("organization_id","id"),
	CONSTRAINT "runs_state_check" CHECK ("runs"."state" in ('queued', 'ready', 'delayed', 'running', 'absorbed', 'completed', 'failed', 'cancelled')),
	CONSTRAINT "runs_lease_check" CHECK (("runs"."state" = 'running') = ("runs"."lease_until" is not null)),
	CONSTRAINT "runs_end_check" CHECK (("runs"."state" in ('completed', 'failed', 'cancelled')) = ("runs"."ended_at" is not null))
);
--> statement-breakpoint
CREATE TABLE "stream_presence" (
	"organization_id" text NOT NULL,
	"conversation_id" text NOT NULL,
	"id" uuid NOT NULL,
	"replica_id" text NOT NULL,
	CONSTRAINT "stream_presence_pkey" PRIMARY KEY("organization_id","conversation_id","id")
);
--> statement-breakpoint
CREATE TABLE "thread_response" (
	"id" bigint PRIMARY KEY GENERATED ALWAYS AS IDENTITY (sequence name "thread_response_id_seq" INCREMENT BY 1 MINVALUE 1 MAXVALUE 9223372036854775807 START WITH 1 CACHE 1),
	"organization_id" text NOT NULL,
	"conversation_id" text NOT NULL,
	"event_count" integer NOT NULL,
	"events" text NOT NULL,
	CONSTRAINT "thread_response_count_check" CHECK ("thread_response"."event_count" > 0)
);
--> statement-breakpoint
CREATE TABLE "users" (
	"id" text PRIMARY KEY NOT NULL,
	"email" text NOT NULL,
	"name" text NOT NULL,
	"created_at" timestamp with time zone DEFAULT now() NOT NULL,
	"updated_at" timestamp with time zone DEFAULT now() NOT NULL,
	CONSTRAINT "users_email_key" UNIQUE("email")
);
--> statement-breakpoint
ALTER TABLE "agents" ADD CONSTRAINT "agents_organization_id_organizations_id_fk" FOREIGN KEY ("organization_id") REFERENCES "public"."organizations"("id") ON DELETE cascade ON UPDATE no action;--> statement-breakpoint
ALTER TABLE "api_keys" ADD CONSTRAINT "api_keys_organization_id_organizations_id_fk" FOREIGN KEY ("organization_id") REFERENCES "public"."organizations"("id") ON DELETE cascade ON UPDATE no action;--> statement-breakpoint
ALTER TABLE "api_keys" ADD CONSTRAINT "api_keys_user_id_users_id_fk" FOREIGN KEY ("user_id") REFERENCES "public"."users"("id") ON DELETE cascade ON UPDATE no action;--> statement-breakpoint
ALTER TABLE "conversations" ADD CONSTRAINT "conversations_agent_fkey" FOREIGN KEY ("organization_id","agent_id") REFERENCES "public"."agents"("organization_id","id") ON DELETE cascade ON UPDATE no action;--> statement-breakpoint
ALTER TABLE "file_chunks" ADD CONSTRAINT "file_chunks_file_fkey" FOREIGN KEY ("organization_id","file_id") REFERENCES "public"."files"("organization_id","id") ON DELETE cascade ON UPDATE no action;--> statement-breakpoint
ALTER TABLE "files" ADD CONSTRAINT "files_conversation_fkey" FOREIGN KEY ("organization_id","conversation_id") REFERENCES "public"."conversations"("organization_id","id") ON DELETE cascade ON UPDATE no action;--> statement-breakpoint
ALTER TABLE "members" ADD CONSTRAINT "members_organization_id_organizations_id_fk" FOREIGN KEY ("organization_id") REFERENCES "public"."organizations"("id") ON DELETE cascade ON UPDATE no action;--> statement-breakpoint
ALTER TABLE "members" ADD CONSTRAINT "members_user_id_users_id_fk" FOREIGN KEY ("user_id") REFERENCES "public"."users"("id") ON DELETE cascade ON UPDATE no action;--> statement-breakpoint
ALTER TABLE "messages" ADD CONSTRAINT "messages_conversation_fkey" FOREIGN KEY ("organization_id","conversation_id") REFERENCES "public"."conversations"("organization_id","id") ON DELETE cascade ON UPDATE no action;--> statement-breakpoint
ALTER TABLE "runs" ADD CONSTRAINT "runs_conversation_fkey" FOREIGN KEY ("organization_id","conversation_id") REFERENCES "public"."conversations"("organization_id","id") ON DELETE cascade ON UPDATE no action;--> statement-breakpoint
ALTER TABLE "stream_presence" ADD CONSTRAINT "stream_presence_replica_id_replicas_id_fk" FOREIGN KEY ("replica_id") REFERENCES "public"."replicas"("id") ON DELETE cascade ON UPDATE no action;--> statement-breakpoint
CREATE UNIQUE INDEX "agents_default_idx" ON "agents" USING btree ("organization_id") WHERE "agents"."is_default";--> statement-breakpoint
CREATE UNIQUE INDEX "conversations_resume_idx" ON "conversations" USING btree ("organization_id","agent_id","user_id","thread") WHERE "conversations"."status" = 'active' and "conversations"."resumable";--> statement-breakpoint
CREATE INDEX "files_message_idx" ON "files" USING btree ("organization_id","conversation_id","message_id");--> statement-breakpoint
CREATE INDEX "files_staged_idx" ON "files" USING btree ("created_at") WHERE "files"."message_id" is null;--> statement-breakpoint
CREATE UNIQUE INDEX "messages_order_idx" ON "messages" USING btree ("organization_id","conversation_id","turn","position");--> statement-breakpoint
CREATE INDEX "outbox_ready_idx" ON "outbox" USING btree ("kind","organization_id","target_host","due_at") WHERE "outbox"."ready";--> statement-breakpoint
CREATE INDEX "outbox_due_idx" ON "outbox" USING btree ("due_at") WHERE not "outbox"."ready";--> statement-breakpoint
CREATE UNIQUE INDEX "runs_turn_idx" ON "runs" USING btree ("organization_id","conversation_id","turn");--> statement-breakpoint
CREATE INDEX "runs_ready_idx" ON "runs" USING btree ("organization_id","ordinal") WHERE "runs"."state" = 'ready';--> statement-breakpoint
CREATE INDEX "runs_due_idx" ON "runs" USING btree ("due_at") WHERE "runs"."state" = 'delayed';--> statement-breakpoint
CREATE INDEX "runs_preferred_idx" ON "runs" USING btree ("preferred_replica","ordinal") WHERE "runs"."state" = 'delayed' and "runs"."preferred_replica" is not null;--> statement-breakpoint
CREATE INDEX "runs_prune_idx" ON "runs" USING btree ("ended_at") WHERE "runs"."end_seq" is not null;--> statement-breakpoint
CREATE INDEX "runs_running_idx" ON "runs" USING btree ("organization_id","id") WHERE "runs"."state" = 'running';--> statement-breakpoint
CREATE INDEX "stream_presence_replica_idx" ON "stream_presence" USING btree ("replica_id");--> statement-breakpoint
CREATE INDEX "thread_response_conversation_idx" ON "thread_response" USING btree ("organization_id","conversation_id","id");
--> statement-breakpoint
-- Short-lived rows: a queue table is vacuumed early and at full speed, or its claims slow down over dead rows.
ALTER TABLE "thread_response" SET (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_threshold = 500, autovacuum_vacuum_cost_delay = 0, autovacuum_analyze_scale_factor = 0.05);
--> statement-breakpoint
ALTER TABLE "event_log" SET (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 0, autovacuum_vacuum_insert_scale_factor = 0.1);
--> statement-breakpoint
-- Both are updated in place many times; room on the page keeps those updates out of the indexes.
ALTER TABLE "runs" SET (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 0);
--> statement-breakpoint
ALTER TABLE "conversations" SET (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 0);
--> statement-breakpoint
ALTER TABLE "outbox" SET (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_cost_delay = 0);
--> statement-breakpoint
ALTER TABLE "replicas" SET (fillfactor = 50);
