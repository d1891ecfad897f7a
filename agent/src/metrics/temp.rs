//! `temp`: temperature sensors in °C, from hwmon, or from the thermal zones if there is none.
//!
//! Sensor names are Telegraf's `metric_format = "v2"`. Read without `sysinfo`, which cannot use
//! another root folder than `/sys` and searches the sensors again every time.

use muster_schemas::metrics::Point;

use super::collect::Collect;
use super::source::{CollectError, Files};
use super::value::hundredths;

const HWMON: &str = "sys/class/hwmon";
const THERMAL: &str = "sys/class/thermal";

/// Interval between searches for sensors, in rounds; a missing sensor also causes a search.
const SEARCH_ROUNDS: u32 = 30;

/// Plausible temperatures, in °C; other values are wrong readings.
const PLAUSIBLE: std::ops::RangeInclusive<f64> = -100.0..=1000.0;

/// One sensor.
struct Sensor {
    name: String,
    /// The file with the temperature in thousandths of a degree.
    input: String,
    /// Limits do not change while a device runs, so they are read once.
    high: Option<f64>,
    critical: Option<f64>,
}

/// Keeps the sensors.
#[derive(Default)]
pub(super) struct Temp {
    sensors: Vec<Sensor>,
    round: u32,
}

impl Collect for Temp {
    fn collect(&mut self, files: &mut Files, points: &mut Vec<Point>) -> Result<(), CollectError> {
        if self.round == 0 {
            self.sensors = search(files);
            self.round = SEARCH_ROUNDS;
        }
        self.round -= 1;
        for sensor in &self.sensors {
            match degrees(files, &sensor.input) {
                Some(value) => points.push(sensor.point(value)),
                // Asleep or removed: search again in the next round, without a log line.
                None => self.round = self.round.min(1),
            }
        }
        Ok(())
    }
}

impl Sensor {
    fn point(&self, value: f64) -> Point {
        let mut point = Point::new("temp").tag("sensor", self.name.clone()).field("temp", value);
        for (field, limit) in [("temp_high", self.high), ("temp_crit", self.critical)] {
            if let Some(limit) = limit {
                point = point.field(field, limit);
            }
        }
        point
    }
}

fn degrees(files: &mut Files, file: &str) -> Option<f64> {
    files
        .number(file)
        .map(|thousandths| hundredths(thousandths / 1000.0))
        .filter(|value| PLAUSIBLE.contains(value))
}

fn search(files: &mut Files) -> Vec<Sensor> {
    let mut sensors = Vec::new();
    for chip in files.names(HWMON) {
        let folder = format!("{HWMON}/{chip}");
        let mut found = search_chip(files, &folder);
        if found.is_empty() {
            // Old drivers keep the files of a chip in its device's folder.
            found = search_chip(files, &format!("{folder}/device"));
        }
        sensors.append(&mut found);
    }
    if sensors.is_empty() {
        sensors = search_zones(files);
    }
    // Two sensors with the same name would overwrite each other: the later ones get a number.
    let mut seen = std::collections::BTreeMap::new();
    for sensor in &mut sensors {
        let count = seen.entry(sensor.name.clone()).and_modify(|count| *count += 1).or_insert(1);
        if *count > 1 {
            sensor.name = format!("{}_{count}", sensor.name);
        }
    }
    sensors
}

fn search_chip(files: &mut Files, folder: &str) -> Vec<Sensor> {
    let names = files.names(folder);
    let inputs = names.iter().filter_map(|name| name.strip_suffix("_input"));
    let prefixes: Vec<&str> = inputs.filter(|prefix| prefix.starts_with("temp")).collect();
    if prefixes.is_empty() {
        return Vec::new();
    }
    let Some(chip) = files.line(&format!("{folder}/name")).or_else(|| {
        // A chip without a name is named after its device.
        let device = std::fs::read_link(files.path(&format!("{folder}/device"))).ok()?;
        Some(device.file_name()?.to_str()?.to_owned())
    }) else {
        return Vec::new();
    };
    prefixes
        .into_iter()
        .map(|prefix| {
            let label = files
                .line(&format!("{folder}/{prefix}_label"))
                .map(|label| label.to_lowercase().replace(' ', "_").replace(char::is_control, ""));
            Sensor {
                name: label.map_or_else(|| chip.clone(), |label| format!("{chip}_{label}")),
                input: format!("{folder}/{prefix}_input"),
                high: degrees(files, &format!("{folder}/{prefix}_max")),
                critical: degrees(files, &format!("{folder}/{prefix}_crit")),
            }
        })
        .collect()
}

fn search_zones(files: &mut Files) -> Vec<Sensor> {
    let zones = files.names(THERMAL);
    zones
        .iter()
        .filter(|zone| zone.starts_with("thermal_zone"))
        .filter_map(|zone| {
            let name = files.line(&format!("{THERMAL}/{zone}/type"))?;
            let input = format!("{THERMAL}/{zone}/temp");
            Some(Sensor { name, input, high: None, critical: None })
        })
        .collect()
}
