//! Names that are probably misspelt. Any label key and any metric is legal, so these are errors only
//! if no device has the label or reports the metric, which the caller checks.

use super::field::Field;
use super::metric::{Metric, own_fields, own_measurements};
use super::similar::nearest;
use super::{Condition, InvalidSelector, Label, Selector};
use crate::metric_names;
use crate::names::LabelKey;

/// A name that no device may have, and one that was probably meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Misspelt {
    /// What the devices must not have for this to be an error.
    pub subject: Subject,
    /// The name that was probably meant.
    pub suggestion: String,
}

/// A name as the selector has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Subject {
    /// Key of a label.
    Label(LabelKey),
    /// A metric.
    Metric {
        /// The measurement.
        measurement: String,
        /// The field.
        field: String,
    },
}

impl Misspelt {
    /// The error, if no device has the name.
    #[must_use]
    pub fn error(&self, selector: &str) -> InvalidSelector {
        let near = &self.suggestion;
        let (name, problem) = match &self.subject {
            Subject::Label(key) => {
                let problem = format!(
                    "'{key}' is not a field, and no device has such a label; did you mean \
                     '{near}'? A label is always label.{key}"
                );
                (key.as_str(), problem)
            }
            Subject::Metric { measurement, field } => {
                let problem = format!(
                    "no device reports {measurement}.{field}; did you mean '{near}'? Write \
                     metric.{measurement}.{field} to select by it before a device reports it"
                );
                (measurement.as_str(), problem)
            }
        };
        InvalidSelector::new(selector, problem, selector.find(name).unwrap_or(0))
    }
}

impl Selector {
    /// Returns the names that resemble another one more than chance suggests.
    #[must_use]
    pub fn misspelt(&self) -> Vec<Misspelt> {
        let conditions = self.conditions().into_iter();
        let found = conditions.filter_map(|(condition, _)| match condition {
            Condition::HasLabel(label) | Condition::Label(label, _) => misspelt_label(label),
            Condition::Metric(metric, ..) => misspelt_metric(metric),
            Condition::HasField(_) | Condition::Field(..) | Condition::Version(..) => None,
        });
        found.collect()
    }
}

fn misspelt_label(label: &Label) -> Option<Misspelt> {
    let fields = Field::ALL.map(Field::as_str).into_iter().chain(["online", "offline"]);
    let near = nearest(label.key.as_str(), fields).filter(|_| !label.is_explicit)?;
    Some(Misspelt { subject: Subject::Label(label.key.clone()), suggestion: near.to_owned() })
}

fn misspelt_metric(metric: &Metric) -> Option<Misspelt> {
    let Metric { measurement, field, is_explicit, .. } = metric;
    let is_known = metric_names::well_known(field).is_some();
    let suggestion = if *is_explicit {
        return None;
    } else if own_measurements().any(|own| own == measurement) {
        let near = nearest(field, own_fields(measurement)).filter(|_| !is_known)?;
        format!("{measurement}.{near}")
    } else {
        let is_measurement = metric_names::well_known(measurement).is_some();
        let near = nearest(measurement, own_measurements()).filter(|_| !is_measurement)?;
        own_fields(near).any(|own| own == field).then(|| format!("{near}.{field}"))?
    };
    let subject = Subject::Metric { measurement: measurement.clone(), field: field.clone() };
    Some(Misspelt { subject, suggestion })
}
