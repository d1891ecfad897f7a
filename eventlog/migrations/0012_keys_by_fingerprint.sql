-- Whose key is this? Asked at each enrollment: a revoked device does not come back with its old key.
CREATE INDEX device_keys_fingerprint ON device_keys (project, fingerprint);
