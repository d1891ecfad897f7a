//! Walks through the pages of the list of devices while the devices report and are renamed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};

use muster_schemas::StreamName;
use muster_schemas::events::{DeviceRenamed, Role};
use serde_json::Value;

use crate::support::{ExtraServers, World, inventory};

const DEVICES: usize = 64;
const PAGE: usize = 10;

async fn rename(world: &World, id: muster_schemas::DeviceId, previous: &str, name: &str) -> u64 {
    let renamed =
        DeviceRenamed { name: name.parse().unwrap(), previous: previous.parse().unwrap() };
    world.server(StreamName::Device(id), renamed).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_walk_lists_each_device_once_while_devices_report_and_are_renamed() {
    let world = World::new(ExtraServers::default()).await;
    let mut names = BTreeMap::new();
    let mut reports = BTreeMap::new();
    for number in 0..DEVICES {
        let name = format!("device-{number:02}");
        let id = world.register(&name, &[]).await;
        world.enroll(id).await;
        names.insert(id, name);
        reports.insert(id, 0_u64);
    }
    let mut changes = 0_usize;
    for sort in ["name", "-name", "last_seen_at", "-last_seen_at", "created_at", "-created_at"] {
        let mut listed: Vec<String> = Vec::new();
        let mut cursor = String::new();
        // Position that the next page must include, so that every change is visible to it.
        let mut position = 0;
        loop {
            let path = format!("/api/v1/devices?sort={sort}&limit={PAGE}{cursor}");
            let header = position.to_string();
            let headers = [("muster-min-position", header.as_str())];
            let response = world.get_with(&path, &world.admin, &headers).await;
            assert_eq!(response.status, 200, "{path}: {}", response.body);
            let items = response.body["items"].as_array().unwrap();
            listed.extend(items.iter().map(|one| one["id"].as_str().unwrap().to_owned()));
            let Some(next) = response.body["next"].as_str() else { break };
            cursor = format!("&cursor={next}");

            // Every third device reports. Of the listed devices and of the others, the first is
            // renamed to sort first and the last to sort last, or both to the middle.
            let is_listed = |id: &muster_schemas::DeviceId| listed.contains(&id.to_string());
            let (before, after): (Vec<_>, Vec<_>) = names.keys().copied().partition(is_listed);
            for (id, seq) in reports.iter_mut().skip(changes % 3).step_by(3) {
                *seq += 1;
                position = world.report(*id, *seq, inventory("Debian")).await;
            }
            for part in [before, after] {
                for (id, word) in [part.first(), part.last()].into_iter().zip(["aaa", "zzz"]) {
                    let Some(id) = id else { continue };
                    changes += 1;
                    let word = if changes % 4 < 2 { word } else { "mmm" };
                    let name = format!("{word}-{changes}");
                    position = rename(&world, *id, &names[id], &name).await;
                    names.insert(*id, name);
                }
            }
        }
        let all: BTreeSet<String> = names.keys().map(ToString::to_string).collect();
        let once: BTreeSet<String> = listed.iter().cloned().collect();
        assert_eq!(once, all, "{sort}: all are listed");
        assert_eq!(listed.len(), DEVICES, "{sort}: each once");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_walk_lists_each_device_once_while_devices_report_concurrently() {
    let world = World::new(ExtraServers::default()).await;
    let mut ids = Vec::new();
    for number in 0..DEVICES {
        let id = world.register(&format!("device-{number:02}"), &[]).await;
        world.enroll(id).await;
        ids.push(id);
    }
    let all: BTreeSet<String> = ids.iter().map(ToString::to_string).collect();
    let is_over = AtomicBool::new(false);
    let reports = async {
        let mut names: Vec<String> =
            (0..DEVICES).map(|number| format!("device-{number:02}")).collect();
        let mut count = 0;
        while !is_over.load(Ordering::Relaxed) {
            // 7 and the number of devices are coprime, so every device has its turn.
            let device = count * 7 % DEVICES;
            let seq = (count / DEVICES + 1) as u64;
            world.report(ids[device], seq, inventory("Debian")).await;
            count += 1;
            if count % 10 == 0 {
                let name = format!("{}-{count}", ["aaa", "zzz"][count / 10 % 2]);
                rename(&world, ids[device], &names[device], &name).await;
                names[device] = name;
            }
        }
        count
    };
    let walks = async {
        for sort in ["name", "-name", "last_seen_at", "-last_seen_at", "created_at", "-created_at"]
        {
            for _ in 0..3 {
                let (mut listed, mut cursor) = (Vec::new(), String::new());
                loop {
                    let path = format!("/api/v1/devices?sort={sort}&limit={PAGE}{cursor}");
                    let page = world.show(&path).await;
                    let items = page["items"].as_array().unwrap();
                    listed.extend(items.iter().map(|one| one["id"].as_str().unwrap().to_owned()));
                    let Some(next) = page["next"].as_str() else { break };
                    cursor = format!("&cursor={next}");
                }
                let once: BTreeSet<String> = listed.iter().cloned().collect();
                assert_eq!((&once, listed.len()), (&all, DEVICES), "{sort}");
            }
        }
        is_over.store(true, Ordering::Relaxed);
    };
    let (reported, ()) = tokio::join!(reports, walks);
    assert!(reported > DEVICES, "only {reported} reports came during the walks");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_walk_by_last_seen_keeps_the_order_of_its_first_page_and_expires() {
    let world = World::new(ExtraServers::default()).await;
    let mut ids = Vec::new();
    for number in 0..7 {
        let id = world.register(&format!("device-{number}"), &[]).await;
        world.enroll(id).await;
        ids.push(id);
    }
    let listed = |page: &Value| -> Vec<String> {
        let items = page["items"].as_array().unwrap();
        items.iter().map(|one| one["name"].as_str().unwrap().to_owned()).collect()
    };
    let path = "/api/v1/devices?sort=last_seen_at&limit=3";
    let first = world.show(path).await;
    assert_eq!(listed(&first), ["device-0", "device-1", "device-2"]);
    let position = world.report(ids[3], 1, inventory("Debian")).await.to_string();
    let next = first["next"].as_str().unwrap();
    let second = format!("{path}&cursor={next}");
    let seen = [("muster-min-position", position.as_str())];
    let page = world.get_with(&second, &world.admin, &seen).await.body;
    assert_eq!(listed(&page), ["device-3", "device-4", "device-5"]);
    let third = format!("{path}&cursor={}", page["next"].as_str().unwrap());
    let page = world.show(&third).await;
    assert_eq!((listed(&page), &page["next"]), (vec!["device-6".to_owned()], &Value::Null));

    // A cursor is valid only for its order, and not for a point-in-time query.
    for foreign in ["?sort=-last_seen_at&limit=3", "?sort=last_seen_at&limit=3&position=3"] {
        let response = world.get(&format!("/api/v1/devices{foreign}&cursor={next}")).await;
        assert_eq!(
            (response.status, &response.body["errors"][0]["parameter"]),
            (400, &"cursor".into())
        );
    }
    // Eight newer walks of the same token displace it.
    for _ in 0..7 {
        world.show(path).await;
    }
    assert_eq!(world.get(&second).await.status, 200);
    world.show(path).await;
    let response = world.get(&second).await;
    assert_eq!(response.status, 400, "{}", response.body);
    assert_eq!(response.body["errors"][0]["parameter"], "cursor", "{}", response.body);
}

/// A list by `last_seen` with further pages is stored. A token starts a limited number of them;
/// lists of other tokens, by other keys, and of one page are not limited.
#[tokio::test(flavor = "multi_thread")]
async fn the_number_of_stored_lists_that_a_token_starts_is_limited() {
    let world = World::new(ExtraServers::default()).await;
    for number in 0..2 {
        world.register(&format!("device-{number}"), &[]).await;
    }
    world.wait("/api/v1/devices/device-1", |_| true).await;
    let viewer = world.token("default", Role::Viewer).await;
    let list = async |query: &str, token: &str| {
        world.get_with(&format!("/api/v1/devices?{query}"), token, &[]).await
    };
    for _ in 0..100 {
        assert_eq!(list("sort=last_seen_at", &viewer).await.status, 200);
    }
    let first = list("sort=last_seen_at&limit=1", &viewer).await;
    assert_eq!(first.status, 200);
    let mut rejected = None;
    for _ in 0..muster_query::DEFAULT_WALKS_PER_MINUTE.get() * 3 {
        let response = list("sort=-last_seen_at&limit=1", &viewer).await;
        if response.status != 200 {
            rejected = Some(response);
            break;
        }
    }
    let rejected = rejected.expect("one is refused");
    assert_eq!(
        (rejected.status, &rejected.body["type"]),
        (429, &"/problems/too-many-requests".into())
    );
    let next = first.body["next"].as_str().unwrap();
    for (query, token) in [
        (format!("sort=last_seen_at&limit=1&cursor={next}"), &viewer),
        ("sort=name&limit=1".to_owned(), &viewer),
        ("sort=last_seen_at&limit=1".to_owned(), &world.admin),
    ] {
        // The order of the first list may have been deleted for newer ones: then 400, not 429.
        let response = list(&query, token).await;
        assert!(matches!(response.status, 200 | 400), "{query}: {}", response.body);
    }
}

/// The list sends what the read model has stored; both are the same resource.
#[tokio::test(flavor = "multi_thread")]
async fn an_item_of_a_list_has_the_fields_of_the_device() {
    let world = World::new(ExtraServers::default()).await;
    let registered = world.register("a", &[("site", "hall-1")]).await;
    let enrolled = world.register("b", &[]).await;
    world.enroll(enrolled).await;
    world.connect(enrolled).await;
    world.report(enrolled, 1, inventory("Debian \"12\" \\ \u{7f}")).await;
    let page = world.show("/api/v1/devices").await;
    let position = world.log.newest_position(&"default".parse().unwrap()).await.unwrap();
    let past = world.show(&format!("/api/v1/devices?position={position}")).await;
    for (index, id) in [registered, enrolled].into_iter().enumerate() {
        let item = page["items"][index].as_object().unwrap();
        assert_eq!(past["items"][index].as_object().unwrap(), item);
        let device = world.show(&format!("/api/v1/devices/{id}")).await;
        assert!(item.len() >= 13, "{item:?}");
        for (field, value) in item {
            assert_eq!(&device[field], value, "{field}");
        }
    }
}
