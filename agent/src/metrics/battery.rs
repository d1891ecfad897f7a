//! `battery`: charge, health and power of the batteries that power the device.
//!
//! From `/sys/class/power_supply`. The formulas are UPower's (`src/linux/up-device-supply.c`), as
//! in the crate `starship-battery`; that crate itself cannot use another root folder, fails as a
//! whole if a battery lacks one of its files, and provides the state only in its own units.
//! Batteries of mice and headsets (`scope` is `Device`) are excluded.

use muster_schemas::metrics::Point;

use super::collect::Collect;
use super::source::{CollectError, Files};
use super::value::{hundredths, whole};

const SUPPLIES: &str = "sys/class/power_supply";

/// Maximum plausible power, in W; a larger value is a wrong reading. UPower's own bound is 100 W:
/// too low for a robot.
const MAX_RATE: f64 = 300.0;

/// Stateless.
pub(super) struct Battery;

impl Collect for Battery {
    fn collect(&mut self, files: &mut Files, points: &mut Vec<Point>) -> Result<(), CollectError> {
        for name in files.names(SUPPLIES) {
            let folder = format!("{SUPPLIES}/{name}");
            let is_battery = files.line(&format!("{folder}/type")).as_deref() == Some("Battery")
                && files.line(&format!("{folder}/scope")).as_deref() != Some("Device")
                && files.line(&format!("{folder}/present")).as_deref() != Some("0");
            if is_battery {
                points.extend(Reading::read(files, &folder).point(&name));
            }
        }
        Ok(())
    }
}

/// The values of one battery; W, Wh, V, °C, percent.
#[derive(Default)]
struct Reading {
    state: Option<&'static str>,
    capacity: Option<f64>,
    voltage: Option<f64>,
    energy: Option<f64>,
    energy_full: Option<f64>,
    energy_design: Option<f64>,
    rate: Option<f64>,
    temperature: Option<f64>,
    cycles: Option<u64>,
}

impl Reading {
    fn read(files: &mut Files, folder: &str) -> Self {
        let state = files.line(&format!("{folder}/status")).map(|status| state(&status));
        // The kernel reports millionths (Documentation/ABI/testing/sysfs-class-power).
        let mut unit = |names: &[&str]| {
            names
                .iter()
                .find_map(|name| files.number(&format!("{folder}/{name}")))
                .map(|millionths| millionths.abs() / 1e6)
        };
        let voltage = unit(&["voltage_now", "voltage_avg"]);
        // Charge is converted to energy with the battery's design voltage, as in UPower.
        let nominal =
            unit(&["voltage_max_design", "voltage_min_design", "voltage_present"]).or(voltage);
        let mut energy = |energies: &[&str], charges: &[&str]| {
            unit(energies).or_else(|| Some(unit(charges)? * nominal?))
        };
        let now = energy(&["energy_now", "energy_avg"], &["charge_now", "charge_avg"]);
        let design = energy(&["energy_full_design"], &["charge_full_design"]);
        let full = energy(&["energy_full"], &["charge_full"]).filter(|full| *full > 0.0).or(design);
        let rate = energy(&["power_now"], &["current_now"]).filter(|rate| *rate <= MAX_RATE);
        let capacity = files
            .number(&format!("{folder}/capacity"))
            .filter(|share| (0.0..=100.0).contains(share));
        Self {
            state,
            capacity,
            voltage,
            energy: now.or_else(|| Some(full? * capacity? / 100.0)),
            energy_full: full,
            energy_design: design,
            rate,
            temperature: files.number(&format!("{folder}/temp")).map(|tenths| tenths / 10.0),
            // Many drivers report 0 for "unknown".
            cycles: files
                .number(&format!("{folder}/cycle_count"))
                .filter(|cycles| *cycles >= 1.0)
                .map(whole),
        }
    }

    /// `None` if the battery reports no value.
    fn point(&self, name: &str) -> Option<Point> {
        let ratio = |part: Option<f64>, whole: Option<f64>| {
            Some(part? / whole.filter(|whole| *whole > 0.0)? * 100.0)
        };
        let percent =
            self.capacity.or_else(|| ratio(self.energy, self.energy_full).map(|p| p.min(100.0)));
        let health = ratio(self.energy_full, self.energy_design).map(|health| health.min(100.0));
        let mut point = Point::new("battery").tag("name", name);
        for (field, value) in [
            ("percent", percent),
            ("health", health),
            ("voltage", self.voltage),
            ("energy", self.energy),
            ("energy_full", self.energy_full),
            ("energy_rate", self.rate),
            ("temperature", self.temperature),
        ] {
            if let Some(value) = value {
                point = point.field(field, hundredths(value));
            }
        }
        if let Some(cycles) = self.cycles {
            point = point.field("cycles", cycles);
        }
        for (field, seconds) in
            [("time_to_full", self.time_to_full()), ("time_to_empty", self.time_to_empty())]
        {
            if let Some(seconds) = seconds {
                point = point.field(field, seconds);
            }
        }
        if point.fields.is_empty() {
            return None;
        }
        Some(match self.state {
            Some(state) => {
                point.field("state", muster_schemas::metrics::FieldValue::Text(state.to_owned()))
            }
            None => point,
        })
    }

    /// Returns the seconds until full, while charging.
    fn time_to_full(&self) -> Option<u64> {
        let missing = self.energy_full? - self.energy?;
        self.seconds("charging", missing)
    }

    /// Returns the seconds until empty, while discharging.
    fn time_to_empty(&self) -> Option<u64> {
        self.seconds("discharging", self.energy?)
    }

    fn seconds(&self, state: &str, energy: f64) -> Option<u64> {
        let rate = self.rate.filter(|rate| *rate > 0.01)?;
        (self.state == Some(state) && energy >= 0.0).then(|| whole(energy / rate * 3600.0))
    }
}

/// Returns the kernel's state in lower snake case; `unknown` for any other text.
fn state(status: &str) -> &'static str {
    match status {
        "Charging" => "charging",
        "Discharging" => "discharging",
        "Full" => "full",
        "Not charging" => "not_charging",
        "Empty" => "empty",
        _ => "unknown",
    }
}
