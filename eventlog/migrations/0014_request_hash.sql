-- Hash of the request body that an append id was used with: a retry with another body is refused.
-- NULL for appends of the servers themselves, and for rows of earlier versions.
ALTER TABLE appends ADD COLUMN request_hash bytea;
