//! Metrics over time from a real InfluxDB.

use muster_backing::influx::{InfluxDb, InfluxOptions};
use muster_metric_store::{InfluxClient, WriteResponse};
use muster_schemas::DeviceId;

use crate::support::{ExtraServers, World};

/// 2026-11-23T08:00:00Z, in seconds.
const START: u64 = 1_795_420_800;

async fn write(influx: &InfluxDb, lines: String) {
    let client = InfluxClient::new(influx.store_settings().clone()).unwrap();
    assert_eq!(client.write(client.pack(lines.into())).await, WriteResponse::Written);
}

fn lines(device: DeviceId, host: &str, factor: u64) -> String {
    let line = |cpu: &str, second: u64, value: u64| {
        let time = START + second;
        format!(
            "cpu,project=default,device_id={device},host={host},cpu={cpu} \
             usage_user={value},state=\"ok\" {time}000000\n"
        )
    };
    (0..60)
        .map(|n| line("cpu0", n * 10, n * factor) + &line("cpu1", n * 10, 2 * n * factor))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_field_can_be_queried_over_time() {
    let dir = tempfile::tempdir().unwrap();
    let influx = InfluxDb::start(InfluxOptions::new(dir.path())).await.unwrap();
    let options = influx.store_settings().clone();
    let world = World::new(ExtraServers { influx: Some(options), ..ExtraServers::default() }).await;
    let robot = world.register("robot", &[]).await;
    let other = world.register("other", &[]).await;
    write(&influx, lines(robot, "robot", 1) + &lines(other, "other", 100)).await;

    let base = "/api/v1/devices/robot/metrics?field=cpu.usage_user\
                &from=2026-11-23T08:00:00Z&to=2026-11-23T08:10:00Z&step=5m";
    // The values of cpu0 are 0 to 29 in the first five minutes, 30 to 59 in the second.
    for (function, first, second) in [
        ("mean", 14.5, 44.5),
        ("min", 0.0, 30.0),
        ("max", 29.0, 59.0),
        ("last", 29.0, 59.0),
        ("p95", 28.0, 58.0),
        ("sum", 435.0, 1335.0),
        ("count", 30.0, 30.0),
    ] {
        let response = world.show(&format!("{base}&fn={function}&tag.cpu=cpu0")).await;
        let series = response["series"].as_array().unwrap();
        assert_eq!(series.len(), 1, "{function}: {response}");
        let value = |n: usize| series[0]["points"][n]["value"].as_f64().unwrap();
        assert_eq!((value(0), value(1)), (first, second), "{function}: {response}");
        assert_eq!(series[0]["points"][1]["time"], "2026-11-23T08:05:00Z");
    }
    let grouped = world.show(&format!("{base}&fn=max")).await;
    assert_eq!(grouped["series"][1]["tags"]["cpu"], "cpu1", "{grouped}");
    assert_eq!(grouped["series"][1]["points"][1]["value"], 118.0);
    assert_eq!(grouped, world.show(&format!("{base}&fn=max&group_by=cpu")).await);
    let together = world.show(&format!("{base}&fn=max&group_by=")).await;
    assert_eq!(together["series"].as_array().unwrap().len(), 1, "{together}");
    assert_eq!(together["series"][0]["tags"], serde_json::json!({}));
    let usual = base.replace("&step=5m", "");
    assert_eq!(world.show(&usual).await["step_seconds"], 5.0);
    assert_eq!(
        world.show(&base.replace("usage_user", "no%20such'%22%5C")).await["series"],
        serde_json::json!([])
    );
    let text = world.show(&base.replace("usage_user", "state&fn=last&group_by=")).await;
    assert_eq!(text["series"][0]["points"][0]["value"], "ok");

    let fields = world.show("/api/v1/devices/robot/metrics/fields").await;
    assert_eq!(
        fields["items"],
        serde_json::json!([
            {"name": "cpu", "fields": {"state": "string", "usage_user": "float"}, "tags": ["cpu"]}
        ])
    );

    for (query, status, named) in [
        ("", 400, "field"),
        ("?field=cpu", 400, "<measurement>.<field>"),
        ("?field=cpu.x&fn=median", 400, "fn"),
        ("?field=cpu.x&since=soon", 400, "since"),
        ("?field=cpu.x&since=1h&from=2026-11-23T08:00:00Z", 400, "from"),
        ("?field=cpu.x&from=2026-11-23T08:00:00Z&to=2026-11-23T08:00:00Z", 400, "to"),
        ("?field=cpu.x&step=0s", 400, "step"),
        ("?field=cpu.x&since=30d&step=1s", 422, "step=5m"),
        ("?field=cpu.x&tag.cpu=", 400, "tag.cpu"),
        ("?field=cpu.x&nope=1", 400, "nope"),
        ("?field=cpu.state&from=2026-11-23T08:00:00Z&to=2026-11-23T08:10:00Z", 400, "fn"),
        ("?field=cpu.x&from=0001-01-01T00:00:00Z&step=500d", 400, "1678"),
    ] {
        let response = world.get(&format!("/api/v1/devices/robot/metrics{query}")).await;
        assert_eq!(response.status, status, "{query}: {}", response.body);
        let detail = response.body["detail"].as_str().unwrap();
        assert!(detail.contains(named), "{query}: {detail}");
    }

    influx.stop().await.unwrap();
    let away = world.get(base).await;
    assert_eq!(away.status, 503, "{}", away.body);
    assert_eq!(away.headers["retry-after"], "5");
    // Other requests do not need InfluxDB.
    world.show("/api/v1/devices/robot").await;
}
