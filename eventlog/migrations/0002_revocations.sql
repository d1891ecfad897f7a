-- A device's way into the broker goes with its keys: what ends the one revokes the other, in the
-- append transaction itself.
ALTER TABLE device_keys ADD COLUMN nats_key text COLLATE "C";

-- The newest claim of the account that the broker was given: claims are ordered by whole seconds.
CREATE TABLE account_claims (
    account   text COLLATE "C" PRIMARY KEY,
    issued_at bigint NOT NULL  -- seconds since 1970
);
