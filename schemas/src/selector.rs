//! Selectors: which devices a request is about, such as
//! `env=prod and mem.available > 500Mi and not (name=robot-* or offline)`.
//!
//! `docs/selectors.md` has the grammar. This module parses and prints selectors, and combines the
//! results of conditions; it does not know the devices, and evaluates no condition itself.

mod field;
mod lexer;
mod metric;
mod misspelt;
mod parser;
mod pattern;
mod print;
mod quantity;
mod similar;

pub use field::{AgentVersion, Field, STATUSES};
pub use metric::{Comparison, Metric, TagTest};
pub use misspelt::{Misspelt, Subject};
pub use parser::is_reserved_key;
pub use pattern::Pattern;
pub use similar::nearest;

use crate::names::LabelKey;

/// Maximum length of a selector, in bytes.
pub const MAX_LENGTH: usize = 8192;
/// Maximum number of conditions in a selector.
pub const MAX_CONDITIONS: usize = 64;
/// Maximum number of values in one `in (…)`.
pub const MAX_VALUES: usize = 256;
/// Maximum number of parentheses and `not` around a condition.
pub const MAX_DEPTH: usize = 16;

/// A parsed selector; an empty one selects everything.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Selector(pub Option<Expression>);

/// Conditions, combined.
#[derive(Clone, Debug, PartialEq)]
pub enum Expression {
    /// All hold; at least two.
    All(Vec<Self>),
    /// One holds; at least two.
    Any(Vec<Self>),
    /// It does not hold.
    Not(Box<Self>),
    /// A single condition.
    Is(Condition),
}

/// A condition on one property of a device.
#[derive(Clone, Debug, PartialEq)]
pub enum Condition {
    /// The device has the label.
    HasLabel(Label),
    /// The device has the label, and its value matches one of the patterns.
    Label(Label, Vec<Pattern>),
    /// The field has a value: a device that never enrolled has no `os`.
    HasField(Field),
    /// The field has a value that matches one of the patterns.
    Field(Field, Vec<Pattern>),
    /// The agent's version compares as given.
    Version(Comparison, AgentVersion),
    /// A fresh value of the metric compares as given with the number.
    Metric(Metric, Comparison, f64),
}

/// A label in a condition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Label {
    /// Key of the label.
    pub key: LabelKey,
    /// Whether it was written as `label.KEY`, which is never taken for a misspelt field.
    pub is_explicit: bool,
}

/// A selector could not be parsed; names the position.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("selector '{selector}', character {offset}: {problem}")]
pub struct InvalidSelector {
    selector: String,
    problem: String,
    offset: usize,
}

impl InvalidSelector {
    /// Describes a problem at a byte of the selector.
    pub(crate) fn new(text: &str, problem: String, at: usize) -> Self {
        Self {
            selector: text.chars().take(200).collect(),
            problem,
            offset: text.get(..at).map_or(at, |before| before.chars().count()) + 1,
        }
    }

    /// Position of the problem, in characters, from 1.
    #[must_use]
    pub const fn offset(&self) -> usize {
        self.offset
    }
}

impl Expression {
    /// Combines the results of the conditions. A condition without a result, because the value is
    /// not known, leaves the whole unknown where it decides.
    pub fn evaluate(&self, condition: &mut impl FnMut(&Condition) -> Option<bool>) -> Option<bool> {
        match self {
            Self::Is(one) => condition(one),
            Self::Not(inner) => inner.evaluate(condition).map(|holds| !holds),
            Self::All(parts) => combine(parts, false, condition),
            Self::Any(parts) => combine(parts, true, condition),
        }
    }

    fn visit<'a>(&'a self, is_negated: bool, seen: &mut impl FnMut(&'a Condition, bool)) {
        match self {
            Self::Is(one) => seen(one, is_negated),
            Self::Not(inner) => inner.visit(!is_negated, seen),
            Self::All(parts) | Self::Any(parts) => {
                parts.iter().for_each(|part| part.visit(is_negated, seen));
            }
        }
    }
}

/// Returns `decisive` if one part has this result; otherwise unknown if one part is.
fn combine(
    parts: &[Expression],
    decisive: bool,
    condition: &mut impl FnMut(&Condition) -> Option<bool>,
) -> Option<bool> {
    let mut result = Some(!decisive);
    for part in parts {
        match part.evaluate(condition) {
            Some(holds) if holds == decisive => return Some(decisive),
            Some(_) => {}
            None => result = None,
        }
    }
    result
}

impl Selector {
    /// Returns its conditions, each with whether it is negated.
    #[must_use]
    pub fn conditions(&self) -> Vec<(&Condition, bool)> {
        let mut found = Vec::new();
        if let Some(expression) = &self.0 {
            expression.visit(false, &mut |condition, is_negated| {
                found.push((condition, is_negated));
            });
        }
        found
    }

    /// Returns the metrics in its conditions, each once.
    #[must_use]
    pub fn metrics(&self) -> Vec<&Metric> {
        let mut found: Vec<&Metric> = Vec::new();
        for (condition, _) in self.conditions() {
            if let Condition::Metric(metric, ..) = condition
                && !found.contains(&metric)
            {
                found.push(metric);
            }
        }
        found
    }

    /// Whether it asks for devices with this status; `status!=deleted` does not ask for deleted
    /// ones.
    #[must_use]
    pub fn asks_for_status(&self, status: &str) -> bool {
        self.conditions().into_iter().any(|(condition, is_negated)| {
            matches!(condition, Condition::Field(Field::Status, patterns)
                if !is_negated && patterns.iter().any(|pattern| pattern.as_str() == status))
        })
    }
}

#[cfg(test)]
mod tests;
