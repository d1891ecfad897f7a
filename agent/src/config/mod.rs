//! The config of the device: its variables, as the servers set them, and their effect on the
//! agent's parts.

mod settings;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use muster_files::write_private;
use muster_schemas::ConfigVersion;
use muster_schemas::events::DeviceConfigApplied;
use muster_schemas::names::ConfigVars;
use parking_lot::{Mutex, MutexGuard};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use self::settings::Settings;
use crate::local::LocalMetrics;
use crate::log_level::LogLevel;
use crate::outbox::Recorder;
use crate::report::SampleSettings;
use crate::store::{Store, StoreError, key};

/// The stored config of the device.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Config {
    version: ConfigVersion,
    vars: ConfigVars,
    /// Names of the variables that were reported as rejected.
    #[serde(default)]
    rejected: BTreeSet<String>,
    /// Whether an agent stored it that can open sealed variables; an earlier one has ignored them.
    #[serde(default)]
    has_sealed: bool,
}

/// The config of this device.
pub(crate) struct DeviceConfig {
    store: Arc<Store>,
    recorder: Recorder,
    log_level: Arc<LogLevel>,
    local: Arc<LocalMetrics>,
    samples: watch::Sender<SampleSettings>,
    max_concurrent_runs: watch::Sender<usize>,
    current: Mutex<(Config, Settings)>,
}

/// Reports variables of the stored config that this version of the agent cannot apply, while the
/// version that stored it could.
fn report_rejected(recorder: &Recorder, config: &mut Config, errors: BTreeMap<String, String>) {
    for (variable, problem) in &errors {
        tracing::warn!(variable, problem, "a config variable cannot be applied");
    }
    if errors.keys().all(|variable| config.rejected.contains(variable)) {
        return;
    }
    config.rejected.extend(errors.keys().cloned());
    let event = DeviceConfigApplied { version: config.version, errors }.into();
    if let Err(error) = recorder.record_with(&event, key::CONFIG, config) {
        tracing::warn!(%error, "failed to report the rejected config variables");
    }
}

impl DeviceConfig {
    /// Applies the stored config; opens no listener yet.
    pub(crate) fn open(
        store: Arc<Store>,
        recorder: Recorder,
        log_level: Arc<LogLevel>,
        local: Arc<LocalMetrics>,
    ) -> Result<Self, StoreError> {
        let mut config: Config = store.get(key::CONFIG)?.unwrap_or_default();
        let (settings, errors) = settings::read(&config.vars, &|level| log_level.configure(level));
        report_rejected(&recorder, &mut config, errors);
        local.configure(settings.quota, settings.samples.groups, settings.listeners);
        Ok(Self {
            store,
            recorder,
            log_level,
            local,
            samples: watch::Sender::new(settings.samples),
            max_concurrent_runs: watch::Sender::new(settings.max_concurrent_runs),
            current: Mutex::new((config, settings)),
        })
    }

    fn current(&self) -> MutexGuard<'_, (Config, Settings)> {
        self.current.lock()
    }

    /// Follows the settings of the sampler.
    pub(crate) fn samples(&self) -> watch::Receiver<SampleSettings> {
        self.samples.subscribe()
    }

    /// Follows the maximum number of programs of operations that run concurrently.
    pub(crate) fn max_concurrent_runs(&self) -> watch::Receiver<usize> {
        self.max_concurrent_runs.subscribe()
    }

    pub(crate) fn version(&self) -> ConfigVersion {
        self.current().0.version
    }

    pub(crate) fn vars(&self) -> ConfigVars {
        self.current().0.vars.clone()
    }

    /// Whether a config of this version has to be applied: it is newer, or an earlier agent has
    /// applied it without its sealed variables.
    pub(crate) fn needs(&self, version: ConfigVersion) -> bool {
        let current = &self.current().0;
        let is_incomplete = current.version > ConfigVersion::ZERO && !current.has_sealed;
        version > current.version || (version == current.version && is_incomplete)
    }

    /// Applies these variables, if they are needed.
    pub(crate) fn apply(
        &self,
        version: ConfigVersion,
        vars: &ConfigVars,
    ) -> Result<(), StoreError> {
        if !self.needs(version) {
            return Ok(());
        }
        let (settings, mut errors) = settings::read(vars, &|level| self.log_level.configure(level));
        self.local.configure(settings.quota, settings.samples.groups, settings.listeners);
        for (variable, problem) in self.local.open_listeners() {
            tracing::warn!(variable, problem, "failed to open a metric socket for applications");
            // A problem with a default setting is reported only in the status.
            if vars.keys().any(|key| key.as_str() == variable) {
                errors.entry(variable).or_insert(problem);
            }
        }
        let rejected = errors.keys().cloned().collect();
        let config = Config { version, vars: vars.clone(), rejected, has_sealed: true };
        // For the applications: they read the file, which is replaced atomically.
        let json = serde_json::json!({"version": version, "vars": vars}).to_string();
        write_private(&self.store.folder().path().join("config.json"), json.as_bytes())
            .map_err(StoreError::from)?;
        let event = DeviceConfigApplied { version, errors }.into();
        if let Err(error) = self.recorder.record_with(&event, key::CONFIG, &config) {
            tracing::warn!(%error, "failed to report the applied config");
            self.store.put(key::CONFIG, &config)?;
        }
        *self.current() = (config, settings);
        self.samples.send_replace(settings.samples);
        self.max_concurrent_runs.send_replace(settings.max_concurrent_runs);
        tracing::info!(version = version.get(), "applied new config variables");
        self.rotate_key_if_requested();
        Ok(())
    }

    /// Creates a new signing key, if it was requested and is possible now.
    pub(crate) fn rotate_key_if_requested(&self) {
        let Some(request) = self.current().1.key_rotation_request else { return };
        match self.recorder.rotate(request) {
            Ok(true) => tracing::info!("the device has a new signing key"),
            Ok(false) => {}
            // The next welcome, ack or config triggers another attempt.
            Err(error) => tracing::warn!(%error, "failed to create a new signing key"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outbox::{Limits, tests::outbox};
    use muster_schemas::Seq;

    #[test]
    fn a_variable_that_an_update_of_the_agent_rejects_is_reported_once() {
        let dir = tempfile::tempdir().unwrap();
        let recorder = Recorder::new(Arc::new(outbox(dir.path(), Limits::default())));
        let mut config = Config { version: ConfigVersion(3), ..Config::default() };
        let errors = BTreeMap::from([("metrics.interval".to_owned(), "has no unit".to_owned())]);
        for _ in 0..2 {
            report_rejected(&recorder, &mut config, errors.clone());
            assert_eq!(recorder.outbox().view().last_seq, Seq::FIRST);
        }
        report_rejected(&recorder, &mut config, BTreeMap::new());
        assert_eq!(recorder.outbox().view().last_seq, Seq::FIRST);
    }
}
