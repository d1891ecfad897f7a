//! Live and rebuilt tables are equal; two runners of one projection apply each event once.

use muster_eventlog::projection::{Projection, Runner, compare_tables};
use muster_query::projections::devices::Devices;
use muster_query::projections::timeline::Timeline;
use muster_query::projections::tokens::Tokens;
use muster_schemas::events::{DeviceConfigSet, DeviceDeleted, Role};
use muster_schemas::names::ConfigValue;
use muster_schemas::{ConfigVersion, StreamName};

use crate::support::{ExtraServers, World, inventory};

async fn rebuilt<P: Projection>(world: &World, projection: P) {
    let mut runner = Runner::open(world.log.clone(), projection).await.unwrap();
    runner.catch_up().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rebuild_produces_the_same_rows_as_the_live_tables() {
    let world = World::new(ExtraServers::default()).await;
    // `rebuilt` with the live names is a second runner of the live projections, in the same
    // process.
    for round in 0..6_u64 {
        let id = world.register(&format!("robot-{round}"), &[("n", &round.to_string())]).await;
        world.enroll(id).await;
        world.connect(id).await;
        world.token("default", Role::Viewer).await;
        let set = DeviceConfigSet {
            version: ConfigVersion(1),
            #[expect(clippy::cast_precision_loss, reason = "any number")]
            set: [("k".parse().unwrap(), ConfigValue::Float(round as f64 * 1e300))].into(),
            removed: Vec::new(),
        };
        world.server(StreamName::Device(id), set).await;
        for seq in 1..=20 {
            world.report(id, seq, inventory(&format!("Debian {seq}"))).await;
            if seq % 7 == 0 {
                rebuilt(&world, Devices::new("devices_v5")).await;
                rebuilt(&world, Timeline::new("timeline_v1")).await;
                rebuilt(&world, Tokens::new("tokens_v2")).await;
            }
        }
        if round % 2 == 0 {
            let name = format!("robot-{round}").parse().unwrap();
            world.server(StreamName::Device(id), DeviceDeleted { name }).await;
        }
    }
    world.show("/api/v1/devices").await;
    world.show("/api/v1/devices/robot-1/events").await;
    world.show("/api/v1/tokens").await;

    rebuilt(&world, Devices::new("devices_v5_rebuild")).await;
    rebuilt(&world, Timeline::new("timeline_v1_rebuild")).await;
    rebuilt(&world, Tokens::new("tokens_v2_rebuild")).await;
    for table in ["devices_v5", "timeline_v1", "tokens_v2"] {
        let other = format!("{table}_rebuild");
        let differences = compare_tables(&world.log, table, &other).await.unwrap();
        assert_eq!(differences, [""; 0], "{table}");
        let sql = format!("SELECT count(*) FROM {table}");
        let rows: i64 = sqlx::query_scalar(sqlx::AssertSqlSafe(sql))
            .fetch_one(&world.log.stores().sql)
            .await
            .unwrap();
        assert!(rows >= 6, "{table} holds {rows} rows");
    }
}
