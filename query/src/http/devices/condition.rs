//! A selector as one SQL condition on the table of devices; all its texts and numbers are bound.
//!
//! Invariant: only a condition on a metric can be NULL (the device has no fresh value), so that the
//! whole is NULL exactly if a missing value decides.

use muster_schemas::DeviceId;
use muster_schemas::selector::{AgentVersion, Comparison, Condition, Expression, Field, Pattern};
use sqlx::{Postgres, QueryBuilder};
use uuid::Uuid;

use crate::latest::MeasuredDevices;

/// The result of the conditions on metrics, in their order in the selector; `None` for unknown.
pub(super) type Measured<'a> = Option<&'a [MeasuredDevices]>;

/// Adds the condition.
pub(super) fn push(
    query: &mut QueryBuilder<Postgres>,
    expression: &Expression,
    measured: Measured<'_>,
) {
    let mut conditions = Conditions { query, measured, next: 0 };
    conditions.expression(expression);
}

/// Adds whether a device is one of these. A subquery, because PostgreSQL makes a hash table of it.
pub(super) fn push_is_one_of<'a>(
    query: &mut QueryBuilder<Postgres>,
    devices: impl IntoIterator<Item = &'a DeviceId>,
) {
    let ids: Vec<Uuid> = devices.into_iter().map(|device| device.0).collect();
    query.push("device IN (SELECT unnest(").push_bind(ids).push("::uuid[]))");
}

struct Conditions<'q, 'm> {
    query: &'q mut QueryBuilder<Postgres>,
    measured: Measured<'m>,
    /// Index of the next condition on a metric.
    next: usize,
}

impl Conditions<'_, '_> {
    fn expression(&mut self, expression: &Expression) {
        match expression {
            Expression::Is(condition) => self.condition(condition),
            Expression::Not(inner) => {
                self.query.push("NOT (");
                self.expression(inner);
                self.query.push(")");
            }
            Expression::All(parts) => self.join(parts, " AND "),
            Expression::Any(parts) => self.join(parts, " OR "),
        }
    }

    fn join(&mut self, parts: &[Expression], operator: &str) {
        for (index, part) in parts.iter().enumerate() {
            self.query.push(if index == 0 { "(" } else { operator });
            self.expression(part);
        }
        self.query.push(")");
    }

    fn condition(&mut self, condition: &Condition) {
        match condition {
            Condition::HasLabel(label) => {
                let key = label.key.as_str().to_owned();
                self.query.push("jsonb_exists(labels, ").push_bind(key).push(")");
            }
            Condition::Label(label, patterns) => {
                let key = label.key.as_str().to_owned();
                self.query.push("COALESCE((labels ->> ").push_bind(key).push(")");
                self.matches(patterns, false);
                self.query.push(", FALSE)");
            }
            Condition::HasField(field) => self.has_field(*field),
            Condition::Field(field, patterns) => self.field(*field, patterns),
            Condition::Version(comparison, version) => self.version(*comparison, *version),
            Condition::Metric(..) => self.metric(),
        }
    }

    fn has_field(&mut self, field: Field) {
        for (index, column) in columns(field).iter().enumerate() {
            self.query.push(if index == 0 { "(" } else { " OR " });
            self.query.push(*column).push(" IS NOT NULL");
        }
        self.query.push(")");
    }

    fn field(&mut self, field: Field, patterns: &[Pattern]) {
        for (index, column) in columns(field).iter().enumerate() {
            self.query.push(if index == 0 { "(" } else { " OR " });
            if field.ignores_case() {
                self.query.push("COALESCE(lower(").push(*column).push(" COLLATE \"C\")");
            } else {
                self.query.push("COALESCE(").push(*column);
            }
            self.matches(patterns, field.ignores_case());
            self.query.push(", FALSE)");
        }
        self.query.push(")");
    }

    /// Adds that the preceding value matches one of the patterns.
    fn matches(&mut self, patterns: &[Pattern], ignores_case: bool) {
        let is_exact = patterns.iter().all(Pattern::is_exact);
        let text = |pattern: &Pattern| {
            let text = if is_exact { pattern.as_str().to_owned() } else { pattern.to_like() };
            if ignores_case { text.to_ascii_lowercase() } else { text }
        };
        let texts: Vec<String> = patterns.iter().map(text).collect();
        let operator = if is_exact { " = ANY(" } else { " LIKE ANY(" };
        self.query.push(operator).push_bind(texts).push(")");
    }

    /// As [`AgentVersion::start_of`].
    fn version(&mut self, comparison: Comparison, version: AgentVersion) {
        self.query.push(
            r"CASE WHEN agent_version ~ '^[0-9]{1,9}(?![0-9])'
            THEN (string_to_array(substring(agent_version FROM
            '^[0-9]{1,9}(?:\.[0-9]{1,9}){0,3}(?![0-9])'), '.')::int[] || ARRAY[0, 0, 0, 0])[1:4] ",
        );
        self.query.push(comparison.as_str()).push(" ").push_bind(version.0.to_vec());
        self.query.push(" ELSE FALSE END");
    }

    /// Already compared in memory: true, false, or NULL.
    fn metric(&mut self) {
        let found = self.measured.and_then(|measured| measured.get(self.next));
        self.next += 1;
        let Some(found) = found else {
            self.query.push("NULL::boolean");
            return;
        };
        self.query.push("CASE WHEN ");
        push_is_one_of(self.query, &found.matching);
        self.query.push(" THEN TRUE WHEN ");
        push_is_one_of(self.query, &found.others);
        self.query.push(" THEN FALSE END");
    }
}

/// The columns with the field's values.
const fn columns(field: Field) -> &'static [&'static str] {
    match field {
        Field::Name => &["name"],
        Field::Id => &["device::text"],
        Field::Status => &["status"],
        Field::Os => &["os", "os_id"],
        Field::Arch => &["arch"],
        Field::Agent => &["agent_version"],
        Field::Hostname => &["hostname"],
    }
}
