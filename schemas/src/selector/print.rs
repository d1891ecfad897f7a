//! Prints a selector in its canonical form; reading it back gives the same selector.

use std::fmt::{self, Display as _};

use super::metric::{Metric, own_metric};
use super::pattern::Pattern;
use super::{Comparison, Condition, Expression, Label, Selector};

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.as_ref().map_or(Ok(()), |expression| expression.fmt(f))
    }
}

impl fmt::Display for Expression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Is(condition) => print_condition(f, condition, true),
            Self::All(parts) => {
                join(f, ",", parts, |part| matches!(part, Self::All(_) | Self::Any(_)))
            }
            Self::Any(parts) => join(f, " or ", parts, |part| matches!(part, Self::Any(_))),
            Self::Not(inner) => match inner.as_ref() {
                Self::Is(condition) => print_condition(f, condition, false),
                other => write!(f, "!({other})"),
            },
        }
    }
}

fn join(
    f: &mut fmt::Formatter<'_>,
    separator: &str,
    parts: &[Expression],
    needs_parentheses: impl Fn(&Expression) -> bool,
) -> fmt::Result {
    for (index, part) in parts.iter().enumerate() {
        if index > 0 {
            f.write_str(separator)?;
        }
        if needs_parentheses(part) {
            write!(f, "({part})")?;
        } else {
            part.fmt(f)?;
        }
    }
    Ok(())
}

/// Prints a condition, or its negation.
fn print_condition(f: &mut fmt::Formatter<'_>, condition: &Condition, holds: bool) -> fmt::Result {
    let not = if holds { "" } else { "!" };
    match condition {
        Condition::HasLabel(label) => write!(f, "{not}{label}"),
        Condition::HasField(field) => write!(f, "{not}{field}"),
        Condition::Label(label, patterns) => print_patterns(f, label, patterns, holds),
        Condition::Field(field, patterns) => print_patterns(f, field, patterns, holds),
        Condition::Version(comparison, version) => {
            write!(f, "{not}agent{}{version}", comparison.as_str())
        }
        Condition::Metric(metric, comparison, number) => {
            f.write_str(not)?;
            print_metric(f, metric, *comparison)?;
            f.write_str(comparison.as_str())?;
            print_number(f, *number)
        }
    }
}

fn print_patterns(
    f: &mut fmt::Formatter<'_>,
    key: &impl fmt::Display,
    patterns: &[Pattern],
    holds: bool,
) -> fmt::Result {
    if let [one] = patterns {
        let operator = if holds { Comparison::Equal } else { Comparison::NotEqual };
        return write!(f, "{key}{}{}", operator.as_str(), Quoted(one.as_str()));
    }
    write!(f, "{key} {} (", if holds { "in" } else { "notin" })?;
    for (index, pattern) in patterns.iter().enumerate() {
        let comma = if index > 0 { "," } else { "" };
        write!(f, "{comma}{}", Quoted(pattern.as_str()))?;
    }
    f.write_str(")")
}

/// Very large and very small numbers are printed with an exponent, so that none is long.
fn print_number(f: &mut fmt::Formatter<'_>, number: f64) -> fmt::Result {
    if number == 0.0 || (1e-5..1e15).contains(&number.abs()) {
        write!(f, "{number}")
    } else {
        write!(f, "{number:e}")
    }
}

impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", if self.is_explicit { "label." } else { "" }, self.key)
    }
}

/// As before `<`: without a prefix unless it was written with one.
impl fmt::Display for Metric {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        print_metric(f, self, Comparison::Below)
    }
}

/// Prints a metric so that it is read as one before this comparison.
fn print_metric(
    f: &mut fmt::Formatter<'_>,
    metric: &Metric,
    comparison: Comparison,
) -> fmt::Result {
    let Metric { measurement, tags, field, is_explicit } = metric;
    f.write_str(if *is_explicit { "metric." } else { "" })?;
    let is_prefix = ["label.", "metric."].iter().any(|prefix| measurement.starts_with(prefix));
    let reads_as_label = comparison.is_equality()
        && tags.is_empty()
        && own_metric(&format!("{measurement}.{field}")).is_none();
    if !is_explicit && (is_prefix || reads_as_label) {
        quote(f, measurement)?;
    } else {
        Quoted(measurement).fmt(f)?;
    }
    for (index, test) in tags.iter().enumerate() {
        f.write_str(if index > 0 { "," } else { "[" })?;
        if let Some(name) = &test.name {
            write!(f, "{}=", Quoted(name))?;
        }
        Quoted(test.value.as_str()).fmt(f)?;
    }
    f.write_str(if tags.is_empty() { "." } else { "]." })?;
    if field.contains('.') { quote(f, field) } else { Quoted(field).fmt(f) }
}

/// A text, in quotation marks if it needs them.
struct Quoted<'a>(&'a str);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let is_plain = |c: char| c.is_alphanumeric() || "-_.:/+@*%".contains(c);
        let is_bare = !self.0.is_empty() && self.0.chars().all(is_plain);
        if is_bare { f.write_str(self.0) } else { quote(f, self.0) }
    }
}

fn quote(f: &mut fmt::Formatter<'_>, text: &str) -> fmt::Result {
    let mark = if text.contains('"') { '\'' } else { '"' };
    write!(f, "{mark}{text}{mark}")
}
