-- 0005 usage steps: what each step of a turn used is written with the step, and summed later; sums by month for budgets.
-- Old replicas: not affected, but the steps that they save are not counted.
-- Locks: organization_limits, while its index is made.

CREATE TABLE "usage_months" (
	"organization_id" text NOT NULL,
	"month" date NOT NULL,
	"tokens" bigint DEFAULT 0 NOT NULL,
	"cost_micros" bigint DEFAULT 0 NOT NULL,
	"warned_at" timestamp with time zone,
	CONSTRAINT "usage_months_pkey" PRIMARY KEY("organization_id","month")
);
--> statement-breakpoint
CREATE TABLE "usage_steps" (
	"organization_id" text NOT NULL,
	"run_id" uuid NOT NULL,
	"fence" bigint NOT NULL,
	"step" integer NOT NULL,
	"day" date NOT NULL,
	"agent_id" text NOT NULL,
	"model" text NOT NULL,
	"user_id" text NOT NULL,
	"input_tokens" bigint NOT NULL,
	"output_tokens" bigint NOT NULL,
	"cached_input_tokens" bigint NOT NULL,
	"cost_micros" bigint,
	CONSTRAINT "usage_steps_pkey" PRIMARY KEY("organization_id","run_id","fence","step")
);
--> statement-breakpoint
ALTER TABLE "usage_months" ADD CONSTRAINT "usage_months_organization_id_organizations_id_fk" FOREIGN KEY ("organization_id") REFERENCES "public"."organizations"("id") ON DELETE cascade ON UPDATE no action;--> statement-breakpoint
CREATE INDEX "organization_limits_runs_idx" ON "organization_limits" USING btree ("organization_id") WHERE "organization_limits"."runs_max" is not null;
--> statement-breakpoint
DO $$
DECLARE t text;
BEGIN
  FOREACH t IN ARRAY ARRAY['usage_steps', 'usage_months']
  LOOP
    EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', t);
    EXECUTE format('CREATE POLICY tenant ON %I USING (organization_id = current_setting(''lobu.organization_id'', true))', t);
  END LOOP;
END $$;
--> statement-breakpoint
-- Each row lives for the length of a turn.
ALTER TABLE "usage_steps" SET (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_cost_delay = 0);
