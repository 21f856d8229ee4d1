-- 0006 oauth: device codes of registered clients, and the command-line client that needs no registration.
-- Old replicas: not affected; the columns may be null and the client is one more row.
-- Locks: device_codes for a moment; the table is small.

ALTER TABLE "device_codes" ADD COLUMN "oauth_client_id" text;--> statement-breakpoint
ALTER TABLE "device_codes" ADD COLUMN "resources" text[];--> statement-breakpoint
CREATE INDEX "device_codes_expiry_idx" ON "device_codes" USING btree ("expires_at");
--> statement-breakpoint
-- A public client: it has no secret, and proves nothing but that it listens on this machine (RFC 8252).
INSERT INTO "oauth_clients" ("id", "client_id", "name", "redirect_uris", "application_type", "token_endpoint_auth_method",
	"require_pkce", "scopes", "grant_types", "response_types")
VALUES ('lobu-cli', 'lobu-cli', 'Lobu command line',
	'{http://127.0.0.1/callback,http://localhost/callback,"http://[::1]/callback"}', 'native', 'none', true, NULL,
	'{authorization_code,refresh_token,urn:ietf:params:oauth:grant-type:device_code}', '{code}')
ON CONFLICT DO NOTHING;
