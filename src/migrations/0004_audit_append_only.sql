-- 0004 audit append only: the audit log can be added to and shortened by retention, and not be rewritten, by nobody.
-- Old replicas: not affected; they only add to it.
-- Locks: audit_log, for a moment.

-- Binds the owner of the tables as well, who could only get past it by taking the triggers off. A person that is removed
-- is taken out of the entries; an organization takes its log along; retention says that it is retention.
CREATE FUNCTION "keep_audit_log"() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF TG_OP = 'UPDATE' AND OLD.user_id IS NOT NULL AND NEW.user_id IS NULL THEN
    OLD.user_id := NULL;
    IF NEW IS NOT DISTINCT FROM OLD THEN RETURN NEW; END IF;
  END IF;
  IF TG_OP = 'DELETE' THEN
    IF current_setting('lobu.audit_retention', true) = 'on' THEN RETURN OLD; END IF;
    IF NOT EXISTS (SELECT 1 FROM organizations o WHERE o.id = OLD.organization_id) THEN RETURN OLD; END IF;
  END IF;
  RAISE EXCEPTION 'the audit log cannot be changed' USING ERRCODE = 'integrity_constraint_violation';
END $$;
--> statement-breakpoint
CREATE TRIGGER "audit_log_keep" BEFORE UPDATE OR DELETE ON "audit_log" FOR EACH ROW EXECUTE FUNCTION "keep_audit_log"();
--> statement-breakpoint
CREATE TRIGGER "audit_log_keep_all" BEFORE TRUNCATE ON "audit_log" FOR EACH STATEMENT EXECUTE FUNCTION "keep_audit_log"();
