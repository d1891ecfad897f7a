//! The files of `grafana/`, embedded in the program, and the substitution of their variables. Pure.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail};
use serde_norway::Value;

/// Values of the variables.
pub(super) type Values = BTreeMap<&'static str, String>;

macro_rules! files {
    ($($path:literal),* $(,)?) => {
        &[$(($path, include_str!(concat!("../../../../grafana/", $path)))),*]
    };
}

/// Files with variables.
pub(super) const TEMPLATES: &[(&str, &str)] =
    files!["provisioning/datasources/muster.yaml", "provisioning/dashboards/muster.yaml"];

/// Files without variables.
pub(super) const RULES: &[(&str, &str)] = files!["provisioning/alerting/muster.yaml"];

/// Files without variables.
pub(super) const DASHBOARDS: &[(&str, &str)] = files![
    "dashboards/fleet.json",
    "dashboards/device.json",
    "dashboards/applications.json",
    "dashboards/pipeline.json",
];

/// Returns a template with its variables substituted.
pub(super) fn fill_template(template: &str, values: &Values) -> Result<String> {
    let mut document: Value = serde_norway::from_str(template).context("the template")?;
    fill(&mut document, values)?;
    Ok(serde_norway::to_string(&document)?)
}

fn fill(value: &mut Value, values: &Values) -> Result<()> {
    match value {
        Value::String(text) => *text = substitute(text, values)?,
        Value::Sequence(items) => items.iter_mut().try_for_each(|item| fill(item, values))?,
        Value::Mapping(items) => {
            items.iter_mut().try_for_each(|(_, item)| fill(item, values))?;
        }
        _ => {}
    }
    Ok(())
}

/// Replaces `${NAME}` by its value. A `$` in a value is doubled, because Grafana also substitutes
/// variables.
fn substitute(text: &str, values: &Values) -> Result<String> {
    let Some((before, rest)) = text.split_once("${") else { return Ok(text.to_owned()) };
    let Some((name, after)) = rest.split_once('}') else {
        bail!("a variable is not terminated: {text}")
    };
    let value = values.get(name).with_context(|| format!("unknown variable ${{{name}}}"))?;
    Ok(format!("{before}{}{}", value.replace('$', "$$"), substitute(after, values)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_are_substituted_and_unknown_ones_reported() {
        let values = Values::from([("A", "x$y: '\"".to_owned()), ("B", String::new())]);
        let text = fill_template("a: 'Token ${A}'\nb: [{c: '${B}'}]\n", &values).unwrap();
        let read: Value = serde_norway::from_str(&text).unwrap();
        assert_eq!(read["a"], Value::from("Token x$$y: '\""));
        assert_eq!(read["b"][0]["c"], Value::from(""));
        assert!(fill_template("a: ${C}", &values).unwrap_err().to_string().contains("${C}"));
    }
}
