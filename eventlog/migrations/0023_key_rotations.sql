-- Position of the event by which a key replaced the device's previous one; NULL for a key with which
-- the device enrolled. Command accepts a key only if the device's events grant it.
ALTER TABLE device_keys ADD COLUMN rotation_position bigint;

UPDATE device_keys k SET rotation_position = e.position
FROM events e
WHERE e.type = 'DeviceKeyRotated' AND e.project = k.project
  AND e.stream = 'device-report/' || k.device || '/' || k.epoch
  AND position(k.public_key IN e.record) > 0;
