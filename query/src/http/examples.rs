//! The examples of the OpenAPI document.

use serde_json::{Value, json};

const DEVICE: &str = "0198c0de-7000-7abc-8def-0123456789ab";

pub(super) fn device_summary() -> Value {
    json!({
        "id": DEVICE,
        "name": "robot-7",
        "status": "online",
        "labels": {"env": "prod", "site": "hall-2"},
        "hostname": "robot-7",
        "os": "Debian GNU/Linux 12 (bookworm)",
        "arch": "x86_64",
        "agent_version": "0.1.0",
        "last_seen_at": "2026-11-23T08:00:10Z",
        "metrics": {"cpu_percent": 12.5, "memory_percent": 41.2, "disk_percent": 63.0},
        "created_at": "2026-11-23T07:00:00Z",
        "created_by": "token:0198c0de-7001-7abc-8def-0123456789ab",
        "version": 3
    })
}

pub(super) fn device_detail() -> Value {
    let mut detail = device_summary();
    let more = json!({
        "enrollment": {
            "enrolled_at": "2026-11-23T07:00:01Z",
            "fingerprint": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
            "nats_key": "UDXU4RCSJNZOIQHZNWXHXORDPRTGNJAHAHFRGZNEEJCPQTT2M7NLCNF4",
            "token": "0198c0de-7001-7abc-8def-0123456789ab",
            "hostname": "robot-7",
            "machine_hash": null
        },
        "epochs": [{"epoch": 1, "cause": "enrolled", "started_at": "2026-11-23T07:00:01Z", "newest_seq": 17}],
        "inventory": {
            "agent_version": "0.1.0", "hostname": "robot-7", "os_id": "debian", "os_version": "12",
            "os_name": "Debian GNU/Linux 12 (bookworm)", "kernel": "6.1.0-18-amd64",
            "arch": "x86_64", "cpu_cores": 4, "memory_bytes": 8_200_000_000_u64,
            "interfaces": [
                {"name": "eth0", "mac": "00:11:22:33:44:55", "addresses": ["10.0.0.7/24"], "up": true}
            ]
        },
        "inventory_reported_at": "2026-11-23T07:00:02Z",
        "presence": {"online": true, "changed_at": "2026-11-23T07:00:02Z", "address": "10.0.0.7", "reason": null},
        "config": {
            "version": 2, "vars": {"log.level": "info"}, "applied_version": 2,
            "applied_at": "2026-11-23T07:30:00Z", "errors": {}
        },
        "event_counts": {"setting_count": 3, "report_count": 17, "presence_count": 1},
        "flags": {
            "fork_count": 0, "unreadable_count": 0, "implausible_time_count": 0,
            "clock_implausible": false, "loss_count": 0, "last_loss": null
        },
        "updated_position": 42,
        "deleted_at": null
    });
    if let (Value::Object(detail), Value::Object(more)) = (&mut detail, more) {
        detail.extend(more);
    }
    detail
}

pub(super) fn event() -> Value {
    json!({
        "project": "default",
        "position": 42,
        "stream": format!("device-presence/{DEVICE}"),
        "version": 1,
        "type": "DeviceConnected",
        "schema_version": 1,
        "occurred_at": "2026-11-23T08:00:00Z",
        "recorded_at": "2026-11-23T08:00:00.000412Z",
        "actor": "role:ingest",
        "sealed": false,
        "time_implausible": false,
        "data": {"connection": "NABC/7", "address": "10.0.0.7"}
    })
}

pub(super) fn device_stream() -> Value {
    let window = json!({
        "kind": "window", "position": 42, "offset": 0, "total_count": 1,
        "status_counts": {"online": 1},
        "items": [{"id": DEVICE, "name": "robot-7", "status": "online"}]
    });
    Value::String(format!("retry: 2000\n\nid: 42\nevent: window\ndata: {window}\n\n"))
}

pub(super) fn server_sent_event() -> Value {
    Value::String(format!("id: 42\nevent: DeviceConnected\ndata: {}\n\n", event()))
}

pub(super) fn series() -> Value {
    json!({
        "field": "cpu.usage_user",
        "function": "mean",
        "from": "2026-11-23T07:00:00Z",
        "to": "2026-11-23T08:00:00Z",
        "step_seconds": 30.0,
        "series": [{
            "tags": {"cpu": "cpu-total"},
            "points": [{"time": "2026-11-23T07:00:00Z", "value": 12.5}]
        }]
    })
}

pub(super) fn latest() -> Value {
    json!({
        "last_seen_at": "2026-11-23T08:00:10Z",
        "summary": {"cpu_percent": 12.5},
        "points": [{
            "measurement": "cpu", "tags": {"cpu": "cpu-total"}, "fields": {"usage_idle": 87.5},
            "time": "2026-11-23T08:00:10Z", "age_seconds": 4.2, "interval_seconds": 10.0,
            "stale": false
        }],
        "dropped_value_count": 0
    })
}

pub(super) fn enrollment_token() -> Value {
    json!({
        "id": "0198c0de-7001-7abc-8def-0123456789ab",
        "name": "hall 2",
        "status": "active",
        "created_by": "token:0198c0de-7001-7abc-8def-0123456789ac",
        "created_at": "2026-11-23T07:00:00Z",
        "expires_at": "2026-11-24T07:00:00Z",
        "max_uses": 10,
        "use_count": 3,
        "labels": {"site": "hall-2"},
        "allowed_labels": [],
        "config": {},
        "device": null,
        "approval_required": false,
        "version": 4
    })
}

pub(super) fn api_token() -> Value {
    json!({
        "id": "0198c0de-7001-7abc-8def-0123456789ac",
        "name": "grafana read-only",
        "status": "active",
        "role": "viewer",
        "created_by": "system",
        "created_at": "2026-11-23T07:00:00Z",
        "last_used_at": "2026-11-23T08:00:00Z",
        "last_used_address": "10.0.0.9",
        "version": 2
    })
}

pub(super) fn dead_letter() -> Value {
    json!({
        "id": 7,
        "source": "events",
        "project": "default",
        "subject": format!("evt.3.default.{DEVICE}"),
        "cause": "bad_signature",
        "detail": "the signature is not by the key that the event names",
        "size_bytes": 312,
        "first_seen_at": "2026-11-23T08:00:00Z",
        "last_seen_at": "2026-11-23T08:05:00Z",
        "seen_count": 2
    })
}

#[cfg(test)]
mod tests {
    use muster_api_types::dead_letters::DeadLetter;
    use muster_api_types::devices::{DeviceDetail, DeviceSummary};
    use muster_api_types::events::Event;
    use muster_api_types::metrics::{Latest, MetricSeries};
    use muster_api_types::tokens::{ApiToken, EnrollmentToken};
    use serde::de::DeserializeOwned;

    use super::*;

    fn read<T: DeserializeOwned>(example: Value) -> T {
        serde_json::from_value(example).unwrap()
    }

    #[test]
    fn clients_can_read_the_examples() {
        let device: DeviceDetail = read(device_detail());
        assert_eq!(device.summary.id.to_string(), DEVICE);
        read::<DeviceSummary>(device_summary());
        read::<EnrollmentToken>(enrollment_token());
        read::<ApiToken>(api_token());
        read::<DeadLetter>(dead_letter());
        read::<Event>(event());
        read::<Latest>(latest());
        read::<MetricSeries>(series());
    }

    #[test]
    fn clients_can_read_responses_of_a_later_server() {
        let mut example = device_detail();
        example["later"] = json!({"x": 1});
        example["status"] = json!("hibernating");
        example["epochs"][0]["cause"] = json!("merged");
        let device: DeviceDetail = read(example);
        assert_eq!(device.summary.status.to_string(), "hibernating");
        assert_eq!(device.epochs[0].cause.to_string(), "merged");
    }
}
