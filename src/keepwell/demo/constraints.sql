-- What the sample adds when its rows are there: keys, indexes, triggers, views.

ALTER TABLE users ADD CONSTRAINT users_pkey PRIMARY KEY (id);
ALTER TABLE users ADD CONSTRAINT users_email_key UNIQUE (email);
ALTER TABLE leads ADD CONSTRAINT leads_pkey PRIMARY KEY (id);
ALTER TABLE leads ADD CONSTRAINT leads_reference_key UNIQUE (reference);
ALTER TABLE activities ADD CONSTRAINT activities_pkey PRIMARY KEY (id, happened_at);
ALTER TABLE closed_deals ADD CONSTRAINT closed_deals_pkey PRIMARY KEY (id);
ALTER TABLE closed_deals ADD CONSTRAINT closed_deals_lead_id_key UNIQUE (lead_id);

ALTER TABLE leads ADD CONSTRAINT leads_owner_id_fkey FOREIGN KEY (owner_id) REFERENCES users (id);
ALTER TABLE activities ADD CONSTRAINT activities_lead_id_fkey
    FOREIGN KEY (lead_id) REFERENCES leads (id) ON DELETE CASCADE;
ALTER TABLE activities ADD CONSTRAINT activities_user_id_fkey FOREIGN KEY (user_id) REFERENCES users (id);
ALTER TABLE closed_deals ADD CONSTRAINT closed_deals_lead_id_fkey FOREIGN KEY (lead_id) REFERENCES leads (id);

CREATE INDEX leads_email_lower_idx ON leads (lower(email));
CREATE INDEX leads_open_idx ON leads (owner_id, score DESC) WHERE status NOT IN ('won', 'lost');
CREATE INDEX leads_custom_idx ON leads ((custom -> 'utm' ->> 'campaign'));
CREATE INDEX activities_lead_id_idx ON activities (lead_id, happened_at DESC);
CREATE INDEX closed_deals_month_idx ON closed_deals (date_trunc('month', closed_at AT TIME ZONE 'UTC'));
COMMENT ON INDEX leads_open_idx IS 'The work list of each user';

CREATE FUNCTION touch_updated_at() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.updated_at IS NOT DISTINCT FROM OLD.updated_at THEN
        NEW.updated_at := clock_timestamp();
    END IF;
    RETURN NEW;
END
$$;
CREATE TRIGGER users_touch BEFORE UPDATE ON users FOR EACH ROW EXECUTE FUNCTION touch_updated_at();
CREATE TRIGGER leads_touch BEFORE UPDATE ON leads FOR EACH ROW EXECUTE FUNCTION touch_updated_at();

CREATE VIEW open_leads AS
    SELECT l.id, l.reference, l.full_name, l.company, l.status, l.score, l.value, u.name AS owner
    FROM leads l JOIN users u ON u.id = l.owner_id
    WHERE l.status NOT IN ('won', 'lost');
COMMENT ON VIEW open_leads IS 'The funnel as it is now';

CREATE MATERIALIZED VIEW monthly_revenue AS
    SELECT date_trunc('month', closed_at AT TIME ZONE 'UTC') AS month, currency,
           count(*) AS deals, sum(amount) AS amount, sum(commission) AS commission
    FROM closed_deals
    GROUP BY 1, 2;
CREATE UNIQUE INDEX monthly_revenue_idx ON monthly_revenue (month, currency);
