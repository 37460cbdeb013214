-- The same model as SQLite has it: the development database that Prisma keeps.

CREATE TABLE "_prisma_migrations" (
    id TEXT PRIMARY KEY NOT NULL,
    checksum TEXT NOT NULL,
    finished_at DATETIME,
    migration_name TEXT NOT NULL,
    logs TEXT,
    rolled_back_at DATETIME,
    started_at DATETIME NOT NULL DEFAULT current_timestamp,
    applied_steps_count INTEGER UNSIGNED NOT NULL DEFAULT 0
);

CREATE TABLE users (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    email TEXT NOT NULL UNIQUE,
    name TEXT NOT NULL,
    role TEXT NOT NULL DEFAULT 'agent' CHECK (role IN ('admin', 'manager', 'agent', 'viewer')),
    password_hash TEXT NOT NULL,
    avatar BLOB,
    settings TEXT NOT NULL DEFAULT '{}' CHECK (json_valid(settings)),
    active BOOLEAN NOT NULL DEFAULT true,
    created_at DATETIME NOT NULL DEFAULT current_timestamp,
    updated_at DATETIME NOT NULL DEFAULT current_timestamp
);

CREATE TABLE leads (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    reference TEXT NOT NULL UNIQUE,
    first_name TEXT NOT NULL,
    last_name TEXT NOT NULL,
    full_name TEXT GENERATED ALWAYS AS (first_name || ' ' || last_name) STORED,
    email TEXT NOT NULL,
    phone TEXT,
    company TEXT NOT NULL,
    source TEXT NOT NULL,
    status TEXT NOT NULL DEFAULT 'new'
        CHECK (status IN ('new', 'contacted', 'qualified', 'proposal', 'negotiation', 'won', 'lost')),
    score INTEGER NOT NULL DEFAULT 0 CHECK (score BETWEEN 0 AND 100),
    value DECIMAL NOT NULL DEFAULT 0 CHECK (value >= 0),
    owner_id INTEGER NOT NULL REFERENCES users (id),
    custom TEXT CHECK (custom IS NULL OR json_valid(custom)),
    tags TEXT NOT NULL DEFAULT '[]' CHECK (json_valid(tags)),
    notes TEXT NOT NULL DEFAULT '',
    created_at DATETIME NOT NULL DEFAULT current_timestamp,
    updated_at DATETIME NOT NULL DEFAULT current_timestamp
);

CREATE TABLE activities (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    lead_id INTEGER NOT NULL REFERENCES leads (id) ON DELETE CASCADE,
    user_id INTEGER NOT NULL REFERENCES users (id),
    kind TEXT NOT NULL CHECK (kind IN ('call', 'email', 'meeting', 'note')),
    subject TEXT NOT NULL,
    body TEXT NOT NULL,
    duration_s INTEGER CHECK (duration_s > 0),
    metadata TEXT NOT NULL DEFAULT '{}' CHECK (json_valid(metadata)),
    happened_at DATETIME NOT NULL DEFAULT current_timestamp
);

CREATE TABLE closed_deals (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    lead_id INTEGER NOT NULL UNIQUE REFERENCES leads (id),
    amount DECIMAL NOT NULL CHECK (amount > 0),
    currency TEXT NOT NULL CHECK (length(currency) = 3),
    commission DECIMAL GENERATED ALWAYS AS (round(amount * 0.05, 2)) STORED,
    signed_by TEXT NOT NULL,
    signature BLOB NOT NULL,
    contract BLOB,
    terms TEXT NOT NULL DEFAULT '{}' CHECK (json_valid(terms)),
    closed_at DATETIME NOT NULL DEFAULT current_timestamp
);

CREATE INDEX leads_email_lower_idx ON leads (lower(email));
CREATE INDEX leads_open_idx ON leads (owner_id, score DESC) WHERE status NOT IN ('won', 'lost');
CREATE INDEX activities_lead_id_idx ON activities (lead_id, happened_at DESC);

CREATE TRIGGER leads_touch AFTER UPDATE ON leads WHEN NEW.updated_at IS OLD.updated_at
BEGIN
    UPDATE leads SET updated_at = current_timestamp WHERE id = NEW.id;
END;

CREATE VIEW open_leads AS
    SELECT l.id, l.reference, l.full_name, l.company, l.status, l.score, l.value, u.name AS owner
    FROM leads l JOIN users u ON u.id = l.owner_id
    WHERE l.status NOT IN ('won', 'lost');
