//! Writes Grafana's provisioning folder with permissions that protect the passwords in it.

use std::fs::{self, DirBuilder, OpenOptions, Permissions};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt, chown};
use std::path::{Path, PathBuf, absolute};

use anyhow::{Context, Result};

use super::files::{DASHBOARDS, RULES, TEMPLATES, Values, fill_template};
use super::policies::{add_policies_to_json, add_policies_to_yaml};

/// Writes all files below `dir`, with queries that include these retention policies; returns their
/// paths.
pub(super) fn write(dir: &Path, values: &Values, policies: &[String]) -> Result<Vec<PathBuf>> {
    let dir = absolute(dir)?;
    create_dir(&dir, None)?;
    // Grafana reads its files through the group of its own folder.
    let group =
        fs::metadata(&dir).with_context(|| format!("failed to inspect {}", dir.display()))?;
    let group = group.gid();
    let dashboards = dir.join("dashboards/muster");
    let mut values = values.clone();
    values.insert("MUSTER_GRAFANA_DASHBOARDS", dashboards.display().to_string());

    let mut written = Vec::new();
    let mut write = |path: PathBuf, text: &str| -> Result<()> {
        if let Some(folder) = path.parent() {
            create_dir(folder, Some(group))?;
        }
        write_file(&path, text, group)
            .with_context(|| format!("failed to write {}", path.display()))?;
        written.push(path);
        Ok(())
    };
    for (name, template) in TEMPLATES {
        let name = name.trim_start_matches("provisioning/");
        write(dir.join(name), &fill_template(template, &values).context(name)?)?;
    }
    for (name, text) in RULES {
        let path = dir.join(name.trim_start_matches("provisioning/"));
        if policies.is_empty() {
            write(path, text)?;
        } else {
            write(path, &add_policies_to_yaml(text, policies).context(name)?)?;
        }
    }
    for (name, text) in DASHBOARDS {
        let path = dashboards.join(name.trim_start_matches("dashboards/"));
        if policies.is_empty() {
            write(path, text)?;
        } else {
            write(path, &add_policies_to_json(text, policies).context(name)?)?;
        }
    }
    Ok(written)
}

fn create_dir(dir: &Path, group: Option<u32>) -> Result<()> {
    if dir.is_dir() {
        return Ok(());
    }
    if let Some(parent) = dir.parent() {
        create_dir(parent, group)?;
    }
    DirBuilder::new()
        .mode(0o750)
        .create(dir)
        .with_context(|| format!("failed to create the folder {}", dir.display()))?;
    let _ = chown(dir, None, group);
    Ok(())
}

fn write_file(path: &Path, text: &str, group: u32) -> std::io::Result<()> {
    let mut file =
        OpenOptions::new().write(true).create(true).truncate(true).mode(0o640).open(path)?;
    // A file of an earlier export may have wider permissions.
    file.set_permissions(Permissions::from_mode(0o640))?;
    // An unprivileged user cannot change the group; the file is kept as it is.
    let _ = chown(path, None, Some(group));
    file.write_all(text.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_files_are_written_with_values_and_private() {
        let dir = tempfile::tempdir().unwrap();
        let names = [
            "MUSTER_INFLUX_URL",
            "MUSTER_INFLUX_DATABASE",
            "MUSTER_GRAFANA_INFLUX_USER",
            "MUSTER_GRAFANA_INFLUX_PASSWORD",
            "MUSTER_GRAFANA_INFLUX_HEADER",
            "MUSTER_GRAFANA_INFLUX_HEADER_VALUE",
            "MUSTER_GRAFANA_POSTGRES",
            "MUSTER_GRAFANA_POSTGRES_DATABASE",
            "MUSTER_GRAFANA_POSTGRES_SSLMODE",
            "MUSTER_GRAFANA_POSTGRES_PASSWORD",
        ];
        let values: Values = names.map(|name| (name, name.to_lowercase())).into();
        let own = ["project-a".to_owned()];
        let written = write(&dir.path().join("provisioning"), &values, &own).unwrap();
        assert_eq!(written.len(), 7);
        for path in &written {
            assert_eq!(fs::metadata(path).unwrap().mode() & 0o777, 0o640, "{}", path.display());
        }
        let sources = fs::read_to_string(&written[0]).unwrap();
        assert!(sources.contains("password: muster_grafana_postgres_password"), "{sources}");
        assert!(!sources.contains('$'), "{sources}");
        super::super::check::check(&dir.path().join("provisioning")).unwrap();
    }
}
