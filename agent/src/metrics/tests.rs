//! Tests of the collectors with fixture trees, and on this machine.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use muster_schemas::metric_rules::{FieldType, field_type};
use muster_schemas::metrics::{FieldValue, MetricBatch, Point};
use muster_schemas::{Timestamp, codec};

use super::*;

type Failure = Box<dyn std::error::Error>;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(name)
}

fn sample(collectors: &mut Collectors, groups: &str) -> Result<Vec<Point>, Failure> {
    Ok(collectors.sample(groups.parse()?, &AgentCounters::default()))
}

/// Formats each point as text: `name{tag=value} field=value …`.
fn shown(points: &[Point]) -> Vec<String> {
    points.iter().map(show).collect()
}

fn show(point: &Point) -> String {
    let tags: Vec<String> =
        point.tags.iter().map(|(name, value)| format!("{name}={value}")).collect();
    let fields: Vec<String> = point
        .fields
        .iter()
        .map(|(name, value)| match value {
            FieldValue::Float(number) => format!("{name}={:?}", *number as f32),
            FieldValue::Int(number) => format!("{name}={number}i"),
            FieldValue::Bool(truth) => format!("{name}={truth}"),
            FieldValue::Text(text) => format!("{name}='{text}'"),
        })
        .collect();
    format!("{}{{{}}} {}", point.measurement, tags.join(","), fields.join(" "))
}

fn check(fixture_name: &str, groups: &str, expected: &[&str]) -> Result<(), Failure> {
    let mut collectors = Collectors::new(&fixture(fixture_name));
    let points = sample(&mut collectors, groups)?;
    assert_eq!(shown(&points), expected, "{fixture_name}: {groups}");
    for point in &points {
        for (name, value) in &point.fields {
            let fixed = field_type(point.measurement.as_str(), name.as_str());
            let found = match value {
                FieldValue::Float(_) => FieldType::Float,
                FieldValue::Int(_) => FieldType::Int,
                FieldValue::Text(_) => FieldType::Text,
                FieldValue::Bool(_) => return Err("no built-in field is a boolean".into()),
            };
            assert_eq!(
                fixed,
                Some(found),
                "{}.{name} in schemas/src/metric_rules.rs",
                point.measurement
            );
        }
    }
    assert_eq!(collectors.failing(), GroupSet::NONE, "{fixture_name}: {groups}");
    Ok(())
}

#[test]
fn metrics_match_telegraf() -> Result<(), Failure> {
    check(
        "robot",
        "mem",
        &[
            "mem{} active=2560000000i available=6144000000i available_percent=75.0 buffered=204800000i cached=3328000000i commit_limit=6144000000i committed_as=5120000000i dirty=409600i free=1024000000i high_free=0i high_total=0i huge_page_size=2097152i huge_pages_free=3i huge_pages_total=4i inactive=1536000000i low_free=0i low_total=0i mapped=307200000i page_tables=20480000i shared=51200000i slab=409600000i sreclaimable=256000000i sunreclaim=153600000i swap_cached=102400i swap_free=1536000000i swap_total=2048000000i total=8192000000i used=2048000000i used_percent=25.0 vmalloc_chunk=0i vmalloc_total=35184372087808i vmalloc_used=61440000i write_back=8192i write_back_tmp=0i",
        ],
    )?;
    check(
        "robot",
        "system",
        &["system{} load1=0.52 load15=2.0 load5=1.25 n_cpus=2i uptime=12345i"],
    )?;
    check(
        "robot",
        "processes",
        &[
            "processes{} blocked=1i dead=0i idle=1i paging=0i running=1i sleeping=2i stopped=1i total=7i total_threads=20i unknown=0i zombies=1i",
        ],
    )?;
    check(
        "robot",
        "diskio",
        &[
            "diskio{name=mmcblk0} io_time=2000i iops_in_progress=1i merged_reads=200i merged_writes=300i read_bytes=40960000i read_time=1500i reads=1000i weighted_io_time=2400i write_bytes=20480000i write_time=900i writes=600i",
            "diskio{name=mmcblk0p1} io_time=4i iops_in_progress=0i merged_reads=0i merged_writes=0i read_bytes=40960i read_time=1i reads=10i weighted_io_time=1i write_bytes=0i write_time=0i writes=0i",
        ],
    )?;
    check(
        "robot",
        "net",
        &[
            "net{interface=eth0} bytes_recv=1000i bytes_sent=2000i drop_in=2i drop_out=4i err_in=1i err_out=3i packets_recv=10i packets_sent=20i speed=1000i",
            "net{interface=wlan0} bytes_recv=5000i bytes_sent=6000i drop_in=0i drop_out=0i err_in=0i err_out=0i packets_recv=50i packets_sent=60i speed=-1i",
        ],
    )?;
    check(
        "robot",
        "wireless",
        &[
            "wireless{interface=wlan0} beacon=3i crypt=0i frag=0i level=-50i link=60i misc=7i noise=-256i nwid=0i retry=1525i status=0i",
        ],
    )?;
    check(
        "robot",
        "temp",
        &[
            "temp{sensor=coretemp_package_id_0} temp=45.5 temp_crit=100.0 temp_high=80.0",
            "temp{sensor=coretemp_core_0} temp=44.0",
            "temp{sensor=nvme_2} temp=38.85",
            "temp{sensor=nvme_3} temp=41.85",
            "temp{sensor=old} temp=30.0",
        ],
    )?;
    check(
        "robot",
        "battery",
        &[
            "battery{name=BAT0} cycles=123i energy=41.5 energy_full=50.0 energy_rate=8.3 health=89.29 percent=83.0 state='discharging' temperature=31.2 time_to_empty=18000i voltage=15.26",
            "battery{name=pack} energy=24.0 energy_full=48.0 energy_rate=12.0 health=80.0 percent=50.0 state='charging' time_to_full=7200i voltage=12.0",
        ],
    )
}

#[test]
fn old_kernels_and_small_devices_are_supported() -> Result<(), Failure> {
    check("pc", "temp", &["temp{sensor=cpu-thermal} temp=47.0"])?;
    check("pc", "swap", &["swap{} free=0i in=0i out=0i total=0i used=0i used_percent=0.0"])?;
    // Without MemAvailable: free + buffers + cache.
    let mut collectors = Collectors::new(&fixture("pc"));
    let points = sample(&mut collectors, "mem")?;
    let text = shown(&points).concat();
    assert!(text.contains(" available=358400i available_percent=35.0 "), "{text}");
    assert!(text.contains(" used=665600i used_percent=65.0 "), "{text}");
    // A missing kind of hardware is not a failure.
    check("pc", "wireless,battery,diskio", &[])
}

#[test]
fn swap_traffic_is_in_bytes() -> Result<(), Failure> {
    let page = swap::page_size();
    let expected = format!(
        "swap{{}} free=1536000000i in={}i out={}i total=2048000000i used=512000000i used_percent=25.0",
        10 * page,
        20 * page
    );
    check("robot", "swap", &[&expected])
}

#[test]
fn mounts_are_reported_by_their_mount_points() -> Result<(), Failure> {
    let mut collectors = Collectors::new(&fixture("robot"));
    let points = sample(&mut collectors, "disk")?;
    let tags: Vec<Vec<String>> = points
        .iter()
        .map(|point| point.tags.iter().map(|(name, value)| format!("{name}={value}")).collect())
        .collect();
    assert_eq!(
        tags,
        [
            ["device=mmcblk0p2", "fstype=ext4", "mode=rw", "path=/"],
            ["device=mmcblk0p3", "fstype=ext4", "mode=ro", "path=/data disk"],
        ]
    );
    let names: Vec<&str> =
        points[0].fields.keys().map(muster_schemas::metrics::MetricName::as_str).collect();
    assert_eq!(
        names,
        [
            "free",
            "inodes_free",
            "inodes_total",
            "inodes_used",
            "inodes_used_percent",
            "total",
            "used",
            "used_percent"
        ]
    );
    Ok(())
}

#[test]
fn the_agent_measures_itself() -> Result<(), Failure> {
    let agent = AgentCounters {
        outbox_events: 3,
        clock_skew_us: -7,
        rtt_us: 900,
        ..AgentCounters::default()
    };
    let points = Collectors::new(&fixture("robot")).sample("muster_agent".parse()?, &agent);
    let text = shown(&points).concat();
    for part in ["clock_skew_us=-7i", "outbox_events=3i", "rtt_us=900i", "open_fds=3i"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert!(text.contains(&format!("rss={}i", 1500 * swap::page_size())), "{text}");
    Ok(())
}

/// Creates `/proc/stat` with these lines, each `name user nice system idle …`.
fn cpu_root(lines: &[&str]) -> Result<tempfile::TempDir, Failure> {
    let root = tempfile::tempdir()?;
    fs::create_dir(root.path().join("proc"))?;
    set_cpus(root.path(), lines)?;
    Ok(root)
}

fn set_cpus(root: &Path, lines: &[&str]) -> Result<(), Failure> {
    Ok(fs::write(root.join("proc/stat"), format!("{}\nintr 1 2 3\n", lines.join("\n")))?)
}

#[test]
fn cpu_usage_is_the_difference_of_two_readings() -> Result<(), Failure> {
    let zeros = "usage_guest_nice=0.0";
    // First reading, second reading, reported points.
    let cases: &[(&[&str], &[&str], &[&str])] = &[
        (
            &["cpu  0 0 0 0 0 0 0 0 0 0", "cpu0 0 0 0 0 0 0 0 0 0 0"],
            &["cpu  30 5 10 40 5 2 3 5 10 0", "cpu0 1 0 0 2 0 0 0 0 0 0"],
            &[
                "cpu{cpu=cpu-total} usage_active=60.0 usage_guest=10.0 usage_guest_nice=0.0 usage_idle=40.0 usage_iowait=5.0 usage_irq=2.0 usage_nice=5.0 usage_softirq=3.0 usage_steal=5.0 usage_system=10.0 usage_user=20.0",
                "cpu{cpu=cpu0} usage_active=33.33 usage_guest=0.0 usage_guest_nice=0.0 usage_idle=66.67 usage_iowait=0.0 usage_irq=0.0 usage_nice=0.0 usage_softirq=0.0 usage_steal=0.0 usage_system=0.0 usage_user=33.33",
            ],
        ),
        // cpu1 was removed, cpu2 was added: neither has a difference, and none takes the other's.
        (
            &["cpu0 1 0 0 1", "cpu1 100 0 0 100"],
            &["cpu0 2 0 0 1", "cpu2 500 0 0 900"],
            &[
                "cpu{cpu=cpu0} usage_active=100.0 usage_guest=0.0 usage_guest_nice=0.0 usage_idle=0.0 usage_iowait=0.0 usage_irq=0.0 usage_nice=0.0 usage_softirq=0.0 usage_steal=0.0 usage_system=0.0 usage_user=100.0",
            ],
        ),
        // iowait decreased, as it can: it counts as unchanged and the others share the time.
        (
            &["cpu0 10 0 0 10 50"],
            &["cpu0 11 0 0 13 40"],
            &[
                "cpu{cpu=cpu0} usage_active=25.0 usage_guest=0.0 usage_guest_nice=0.0 usage_idle=75.0 usage_iowait=0.0 usage_irq=0.0 usage_nice=0.0 usage_softirq=0.0 usage_steal=0.0 usage_system=0.0 usage_user=25.0",
            ],
        ),
        // All counters decreased, or no time has passed: there is nothing to report.
        (&["cpu0 10 10 10 10"], &["cpu0 1 1 1 1"], &[]),
        (&["cpu0 10 10 10 10"], &["cpu0 10 10 10 10"], &[]),
    ];
    assert!(cases[0].2[0].contains(zeros));
    for (before, after, expected) in cases {
        let root = cpu_root(before)?;
        let mut collectors = Collectors::new(root.path());
        assert!(sample(&mut collectors, "cpu")?.is_empty(), "the first reading says nothing");
        set_cpus(root.path(), after)?;
        assert_eq!(shown(&sample(&mut collectors, "cpu")?), *expected);
    }
    Ok(())
}

#[test]
fn failing_groups_yield_no_points_until_they_recover() -> Result<(), Failure> {
    let root = cpu_root(&["cpu0 1 1 1 1"])?;
    let mut collectors = Collectors::new(root.path());
    sample(&mut collectors, "cpu")?;
    for broken in
        ["cpu0 1 x 1 1", "cpu0 1", "", "cpu0 -1 0 0 0", "cpu0 99999999999999999999999 0 0 0"]
    {
        set_cpus(root.path(), &[broken])?;
        assert!(sample(&mut collectors, "cpu")?.is_empty(), "{broken}");
        assert_eq!(collectors.failing().to_string(), "cpu", "{broken}");
    }
    // The reading before the failure is too old for a comparison.
    set_cpus(root.path(), &["cpu0 5 5 5 5"])?;
    assert!(sample(&mut collectors, "cpu")?.is_empty());
    assert_eq!(collectors.failing(), GroupSet::NONE);
    set_cpus(root.path(), &["cpu0 6 5 5 5"])?;
    assert_eq!(sample(&mut collectors, "cpu")?.len(), 1);
    Ok(())
}

#[test]
fn malformed_empty_and_missing_files_never_panic() -> Result<(), Failure> {
    for name in ["garbled", "empty", "no-such-folder"] {
        let mut collectors = Collectors::new(&fixture(name));
        for _ in 0..3 {
            let points = collectors.sample(GroupSet::ALL, &AgentCounters::default());
            assert!(points.iter().all(|point| !point.fields.is_empty()), "{:?}", shown(&points));
            let batch = MetricBatch { time: Timestamp(0), points };
            assert!(MetricBatch::decode(&batch.encode()).is_ok(), "{name}: {batch:?}");
        }
        let mut must_fail: GroupSet =
            "cpu,mem,swap,system,processes,disk,net,muster_agent".parse()?;
        if name == "garbled" {
            // A process in an unknown state is counted as such.
            must_fail = must_fail.without(Group::Processes);
        }
        for group in must_fail.iter() {
            assert!(collectors.failing().contains(group), "{name}: {group} did not fail");
        }
    }
    Ok(())
}

#[test]
fn percentages_take_five_bytes_on_the_wire() {
    for number in [0.01, 12.34, 33.333_333, 66.666_666, 99.99, 100.0, 0.0] {
        let rounded = value::hundredths(number);
        assert!((rounded - number).abs() < 0.0051, "{number}");
        assert!(codec::encode(&rounded).len() <= 5, "{number}");
    }
    assert!(codec::encode(&12.34_f64).len() == 9);
}

#[test]
fn group_names_round_trip() -> Result<(), Failure> {
    assert_eq!(GroupSet::default().to_string().parse::<GroupSet>()?, GroupSet::ALL);
    assert_eq!(" cpu , mem,".parse::<GroupSet>()?.to_string(), "cpu,mem");
    assert_eq!("".parse::<GroupSet>()?, GroupSet::NONE);
    let error = "cpu,gpu".parse::<GroupSet>().map_err(|error| error.to_string());
    assert!(error.is_err_and(|text| text.contains("'gpu'") && text.contains("muster_agent")));
    assert!(!GroupSet::ALL.without(Group::Disk).contains(Group::Disk));
    Ok(())
}

#[test]
fn the_metrics_of_this_machine_are_collected() -> Result<(), Failure> {
    let mut collectors = Collectors::new(Path::new("/"));
    collectors.sample(GroupSet::ALL, &AgentCounters::default());
    std::thread::sleep(std::time::Duration::from_millis(100));
    let points = collectors.sample(GroupSet::ALL, &AgentCounters::default());
    assert_eq!(collectors.failing(), GroupSet::NONE);
    let mut by_name: BTreeMap<&str, Vec<&Point>> = BTreeMap::new();
    for point in &points {
        by_name.entry(point.measurement.as_str()).or_default().push(point);
    }
    let int = |name: &str, field: &'static str| -> Result<i64, Failure> {
        match by_name.get(name).and_then(|points| points[0].fields.get(&field.into())) {
            Some(FieldValue::Int(number)) => Ok(*number),
            other => Err(format!("{name}.{field} is {other:?}").into()),
        }
    };
    let meminfo = fs::read_to_string("/proc/meminfo")?;
    let total = meminfo.split_ascii_whitespace().nth(1).ok_or("no total")?;
    assert_eq!(int("mem", "total")?, total.parse::<i64>()? * 1024);
    let cores = std::thread::available_parallelism()?.get();
    assert!(int("system", "n_cpus")? >= i64::try_from(cores)?);
    assert!(by_name["cpu"].len() >= 2);
    assert!(int("processes", "total")? >= 2 && int("processes", "total_threads")? >= 2);
    assert!(int("muster_agent", "rss")? > 100_000 && int("muster_agent", "open_fds")? >= 3);
    let root = by_name["disk"]
        .iter()
        .find(|point| point.tags.get(&"path".into()).is_some_and(|p| p == "/"));
    assert!(root.is_some());
    assert!(!by_name["net"].iter().any(|point| point.tags.values().any(|name| name == "lo")));
    for point in &by_name["cpu"] {
        for (name, value) in &point.fields {
            assert!(
                matches!(value, FieldValue::Float(n) if (0.0..=100.0).contains(n)),
                "{name}: {value:?}"
            );
        }
    }
    let batch = MetricBatch { time: Timestamp(0), points };
    assert_eq!(MetricBatch::decode(&batch.encode())?, batch);
    Ok(())
}
