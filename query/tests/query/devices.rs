//! Devices: lists, filters, orders, pages, one device, point-in-time queries.

use muster_schemas::events::{
    DeviceConfigApplied, DeviceDeleted, DeviceLabelsChanged, DeviceNameReleased, DeviceRenamed,
};
use muster_schemas::{ConfigVersion, StreamName};

use crate::support::{ExtraServers, World, inventory, names};

async fn fleet() -> World {
    let world = World::new(ExtraServers::default()).await;
    for (name, env) in [("alpha", "prod"), ("beta", "test"), ("delta", "prod"), ("gamma", "prod")] {
        world.register(name, &[("env", env), ("site", &format!("hall-{}", name.len()))]).await;
    }
    world
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_are_filtered_sorted_and_paged() {
    let world = fleet().await;
    let beta = world.register("epsilon", &[]).await;
    world.enroll(beta).await;
    world.connect(beta).await;
    world.report(beta, 1, inventory("Debian")).await;
    for (query, expected) in [
        ("", vec!["alpha", "beta", "delta", "epsilon", "gamma"]),
        ("?sort=-name&limit=2", vec!["gamma", "epsilon"]),
        ("?sort=created_at", vec!["alpha", "beta", "delta", "gamma", "epsilon"]),
        ("?sort=-created_at&limit=1", vec!["epsilon"]),
        ("?sort=-last_seen_at&limit=1", vec!["epsilon"]),
        ("?status=online", vec!["epsilon"]),
        ("?status=registered,offline", vec!["alpha", "beta", "delta", "gamma"]),
        ("?status=deleted", vec![]),
        ("?search=ALP", vec!["alpha"]),
        ("?search=env=prod", vec!["alpha", "delta", "gamma"]),
        ("?search=hostname", vec![]),
        ("?search=host", vec!["epsilon"]),
        ("?search=%25", vec![]),
        ("?selector=env=prod", vec!["alpha", "delta", "gamma"]),
        ("?selector=env!=prod", vec!["beta", "epsilon"]),
        ("?selector=env", vec!["alpha", "beta", "delta", "gamma"]),
        ("?selector=!env", vec!["epsilon"]),
        ("?selector=env+in+(prod,test),site=hall-5", vec!["alpha", "delta", "gamma"]),
        ("?selector=env+notin+(prod)", vec!["beta", "epsilon"]),
        ("?selector=name=alpha", vec!["alpha"]),
        ("?selector=name!=alpha,env=prod", vec!["delta", "gamma"]),
        ("?selector=status=online", vec!["epsilon"]),
        ("?selector=!status", vec![]),
        (&format!("?selector=id={beta}"), vec!["epsilon"]),
        (&format!("?selector=id={}*", &beta.to_string()[..30]), vec!["epsilon"]),
        ("?selector=name=*a+and+(env=test+or+site=*-5)", vec!["alpha", "beta", "delta", "gamma"]),
        ("?selector=not(name=*a+or+env)", vec!["epsilon"]),
        ("?selector=env=p*+or+name=be*", vec!["alpha", "beta", "delta", "gamma"]),
        ("?selector=env=p_od", vec![]),
        ("?selector=os=DEBIAN", vec!["epsilon"]),
        ("?selector=os=deb*,arch", vec!["epsilon"]),
        ("?selector=os!=debian", vec!["alpha", "beta", "delta", "gamma"]),
        ("?selector=hostname=HOST*", vec!["epsilon"]),
        ("?selector=!os", vec!["alpha", "beta", "delta", "gamma"]),
        ("?selector=agent", vec!["epsilon"]),
        ("?selector=agent<9999,agent>=0.0.0", vec!["epsilon"]),
        ("?selector=not+agent>=0.0.0", vec!["alpha", "beta", "delta", "gamma"]),
        ("?selector=agent=*", vec!["epsilon"]),
        ("?selector=label.env=test", vec!["beta"]),
        ("?selector=label.status", vec![]),
        ("?selector=offline+or+online", vec!["epsilon"]),
    ] {
        let now = world.show(&format!("/api/v1/devices{query}")).await;
        assert_eq!(names(&now), expected, "{query}");
        // Point-in-time queries filter and sort in memory, and must return the same.
        let head = world.show("/api/v1/log/head").await["position"].as_u64().unwrap();
        let glue = if query.is_empty() { '?' } else { '&' };
        let past = world.show(&format!("/api/v1/devices{query}{glue}position={head}")).await;
        assert_eq!(names(&past), expected, "{query}, from the log");
    }

    for sort in ["name", "-name", "last_seen_at", "-last_seen_at", "created_at", "-created_at"] {
        let all = world.show(&format!("/api/v1/devices?sort={sort}")).await;
        let mut paged: Vec<String> = Vec::new();
        let mut cursor = String::new();
        loop {
            let page = world.show(&format!("/api/v1/devices?sort={sort}&limit=2{cursor}")).await;
            paged.extend(names(&page).into_iter().map(str::to_owned));
            let Some(next) = page["next"].as_str() else {
                break;
            };
            cursor = format!("&cursor={next}");
        }
        assert_eq!(paged, names(&all), "{sort}");
    }
}

/// The same selector in SQL and in memory, for combinations of conditions.
#[tokio::test(flavor = "multi_thread")]
async fn combined_selectors_select_the_same_now_and_from_the_log() {
    let world = fleet().await;
    let epsilon = world.register("epsilon", &[("os", "none")]).await;
    world.enroll(epsilon).await;
    world.connect(epsilon).await;
    world.report(epsilon, 1, inventory("Debian GNU/Linux 12")).await;
    let zeta = world.register("zeta", &[("env", "")]).await;
    world.enroll(zeta).await;
    let mut version = inventory("Über Linux");
    version.agent_version = "12.4.1-rc2".to_owned();
    version.os_id = Some("ueber".to_owned());
    world.report(zeta, 1, version).await;
    let conditions = [
        "env",
        "env=prod",
        "env in (test,p*,)",
        "label.os=n*",
        "os",
        "os='*linux*'",
        "os in (ueber,none)",
        "agent<12.4.1",
        "agent>=0.1,agent<12.4.2",
        "hostname=HOST*",
        "name=*a",
        "offline",
        "status in (online,registered)",
    ];
    let head = world.show("/api/v1/log/head").await["position"].as_u64().unwrap();
    let mut selected = std::collections::BTreeSet::new();
    for a in conditions {
        for b in conditions {
            for selector in [format!("({a}) and not ({b})"), format!("({a}) or ({b})")] {
                let path = format!("/api/v1/devices?selector={}", selector.replace(' ', "+"));
                let now = world.show(&path).await;
                let past = world.show(&format!("{path}&position={head}")).await;
                assert_eq!(names(&now), names(&past), "{selector}");
                selected.insert(names(&now).join(","));
            }
        }
    }
    assert!(selected.len() > 12, "{selected:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_error_for_a_bad_request_names_the_field_and_the_rule() {
    let world = fleet().await;
    let cursor = world.show("/api/v1/devices?limit=1").await["next"].as_str().unwrap().to_owned();
    for (path, status, field) in [
        ("?limit=0", 400, "limit"),
        ("?limit=1001", 400, "limit"),
        ("?limit=ten", 400, "limit"),
        ("?cursor=x", 400, "cursor"),
        (&format!("?cursor={cursor}&sort=-name"), 400, "cursor"),
        (&format!("?cursor={}", &cursor[1..]), 400, "cursor"),
        ("?sort=size", 400, "sort"),
        ("?status=lost", 400, "status"),
        ("?selector=env%3D%3D%3D", 400, "selector"),
        ("?selector=status=onlin", 400, "selector"),
        ("?selector=statsu=online", 400, "selector"),
        ("?selector=statsu=online&position=1", 400, "selector"),
        ("?selector=os<5", 400, "selector"),
        ("?selector=cpu.usage_ilde<5", 400, "selector"),
        (&format!("?selector={}", "(".repeat(4_000)), 400, "selector"),
        ("?search=%00", 400, "search"),
        ("?position=999999", 412, ""),
        ("?position=-1", 400, "position"),
        ("?position=1&at=2020-01-01T00:00:00Z", 400, "at"),
        ("?at=2999-01-01T00:00:00Z", 400, "at"),
        ("?at=now", 400, "at"),
        ("?color=red", 400, "color"),
        ("?project=nowhere", 404, ""),
        ("?project=No!", 400, "project"),
        ("/nobody", 404, ""),
        ("/No%20body", 404, ""),
        ("/%00", 404, ""),
        ("/0198c0de-7000-7abc-8def-0123456789ab", 404, ""),
        ("/0198c0de-7000-7abc-8def-0123456789ab/events", 404, ""),
        ("/nobody/metrics?field=cpu.x", 404, ""),
        ("/alpha?position=1&position=2", 400, "position"),
        ("/alpha?nope=1", 400, "nope"),
        ("/alpha/metrics/latest?x=1", 400, "x"),
    ] {
        let response = world.get(&format!("/api/v1/devices{path}")).await;
        assert_eq!(response.status, status, "{path}: {}", response.body);
        assert_eq!(response.headers["content-type"], "application/problem+json", "{path}");
        if status == 400 {
            assert_eq!(response.body["errors"][0]["parameter"], field, "{path}: {}", response.body);
        }
    }
    let beyond = world.get("/api/v1/devices?position=999999").await.body;
    assert_eq!(beyond["type"], "/problems/position-not-in-log", "{beyond}");
    assert!(beyond["detail"].as_str().unwrap().contains('8'), "{beyond}");
    let far = [("muster-min-position", "nope")];
    assert_eq!(world.get_with("/api/v1/devices", &world.admin, &far).await.status, 400);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_device_now_and_in_the_past() {
    let world = fleet().await;
    let id = world.register("robot", &[("env", "prod")]).await;
    let enrolled = world.enroll(id).await;
    world.connect(id).await;
    world.report(id, 1, inventory("Debian 11")).await;
    let device = StreamName::Device(id);
    let changed = DeviceLabelsChanged {
        set: [("env".parse().unwrap(), "test".parse().unwrap())].into(),
        removed: Vec::new(),
    };
    world.server(device.clone(), changed).await;
    let (name, previous) = ("walle".parse().unwrap(), "robot".parse().unwrap());
    let renamed = world.server(device.clone(), DeviceRenamed { name, previous }).await;
    let released = StreamName::Name("robot".parse().unwrap());
    world.server(released, DeviceNameReleased { device: id }).await;
    world.report(id, 2, inventory("Debian 12")).await;
    let applied = DeviceConfigApplied {
        version: ConfigVersion(1),
        errors: [("k".to_owned(), "unknown".to_owned())].into(),
    };
    let last = world.report(id, 3, applied).await;

    let response = world.get("/api/v1/devices/walle").await;
    assert!(response.headers["etag"].to_str().unwrap().starts_with("\"4-"));
    assert_eq!(response.headers["muster-position"], last.to_string().as_str());
    let now = response.body;
    assert_eq!(now, world.show(&format!("/api/v1/devices/{id}")).await);
    assert_eq!(now["status"], "online");
    assert_eq!(now["labels"]["env"], "test");
    assert_eq!(now["os"], "Debian 12");
    assert_eq!(now["version"], 4);
    assert_eq!(now["epochs"][0]["newest_seq"], 3);
    assert_eq!(now["presence"]["address"], "10.0.0.7");
    assert_eq!(now["config"]["errors"]["k"], "unknown");
    assert_eq!(now["event_counts"]["report_count"], 3);
    assert!(now["last_seen_at"].is_string());

    // The state after its enrollment, by its id and by its name at that time.
    for path in [format!("{id}"), "robot".to_owned()] {
        let past = world.show(&format!("/api/v1/devices/{path}?position={enrolled}")).await;
        assert_eq!((&past["name"], &past["status"]), (&"robot".into(), &"offline".into()));
        assert_eq!(past["labels"]["env"], "prod");
        assert!(past["inventory"].is_null());
    }
    assert_eq!(world.get(&format!("/api/v1/devices/walle?position={enrolled}")).await.status, 404);
    assert_eq!(world.get(&format!("/api/v1/devices/{id}?position=1")).await.status, 404);
    // A point-in-time query at the head equals the current state.
    let mut from_log = world.show(&format!("/api/v1/devices/{id}?position={last}")).await;
    from_log["metrics"] = now["metrics"].clone();
    assert_eq!(from_log, now);

    let event = world.show(&format!("/api/v1/events/{renamed}")).await;
    let at = event["recorded_at"].as_str().unwrap();
    let past = world.show(&format!("/api/v1/devices/{id}?at={at}")).await;
    assert_eq!(past["name"], "walle");
    assert_eq!(past["os"], "Debian 11");
    assert_eq!(names(&world.show("/api/v1/devices?at=2020-01-01T00:00:00Z").await), [""; 0]);

    let summary = world.show("/api/v1/fleet/summary").await;
    assert_eq!(summary["device_count"], 5);
    assert_eq!(summary["status_counts"]["online"], 1);
    assert_eq!(summary["os_counts"]["Debian 12"], 1);

    let name = "walle".parse().unwrap();
    world.server(device, DeviceDeleted { name }).await;
    for key in [id.to_string(), "walle".to_owned()] {
        let deleted = world.show(&format!("/api/v1/devices/{key}")).await;
        assert_eq!(deleted["status"], "deleted", "{key}");
    }
    // In the past, too.
    let scrapped = world.register("scrapped", &[]).await;
    let name = "scrapped".parse().unwrap();
    let at = world.server(StreamName::Device(scrapped), DeviceDeleted { name }).await;
    for key in [scrapped.to_string(), "scrapped".to_owned()] {
        let deleted = world.show(&format!("/api/v1/devices/{key}?position={at}")).await;
        assert_eq!(deleted["status"], "deleted", "{key}");
    }
    let deleted = world.show("/api/v1/devices?status=deleted").await;
    assert_eq!(names(&deleted), ["scrapped", "walle"]);
    assert_eq!(world.show("/api/v1/fleet/summary").await["device_count"], 4);
}
