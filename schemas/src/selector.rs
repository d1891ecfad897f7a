//! The selector language: `env=prod,site in (a,b),!retired,online,mem.available>500Mi`.
//!
//! Requirements are joined by `,` and must all hold. On labels, a requirement is `key`, `!key`,
//! `key=value` (or `==`), `key!=value`, `key in (a,b)` or `key notin (a,b)`; as in Kubernetes, `!=`
//! and `notin` also hold where the key is absent. The keys `name`, `id` and `status` are attributes
//! of the device; `online` and `!online` select by connection.
//!
//! `measurement.field` compared with a number by `<`, `<=`, `>` or `>=` uses the newest value that
//! the device has reported, of any age; with several series (disks, interfaces), one match is enough,
//! and `cpu` is the total. A number may have a unit: Ki, Mi, Gi, Ti are powers of 1024, k, M, G, T of
//! 1000, and % is ignored.

use std::fmt;
use std::str::FromStr;

use crate::names::{LabelKey, LabelValue};

/// Maximum number of requirements in a selector.
pub const MAX_REQUIREMENTS: usize = 32;
/// Maximum number of values in one `in (…)`.
pub const MAX_VALUES: usize = 256;

/// Requirements that must all hold; an empty selector selects everything.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Selector(pub Vec<Requirement>);

/// One condition on one key.
#[derive(Clone, Debug, PartialEq)]
pub struct Requirement {
    /// The label's key, or `name`, `id`, `status`.
    pub key: LabelKey,
    /// The condition.
    pub test: Test,
}

/// A condition on a key.
#[derive(Clone, Debug, PartialEq)]
pub enum Test {
    /// The key exists.
    Exists,
    /// The key does not exist.
    Absent,
    /// The key has one of these values.
    In(Vec<LabelValue>),
    /// The key is absent or has none of these values.
    NotIn(Vec<LabelValue>),
    /// The newest value of the metric `measurement.field` satisfies the comparison.
    Measured(Comparison, f64),
}

/// A comparison of a metric with a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Comparison {
    /// `<`
    Below,
    /// `<=`
    AtMost,
    /// `>`
    Above,
    /// `>=`
    AtLeast,
}

impl Comparison {
    const ALL: [(&'static str, Self); 4] =
        [("<=", Self::AtMost), ("<", Self::Below), (">=", Self::AtLeast), (">", Self::Above)];

    /// Whether it holds.
    #[must_use]
    pub fn holds(self, value: f64, limit: f64) -> bool {
        match self {
            Self::Below => value < limit,
            Self::AtMost => value <= limit,
            Self::Above => value > limit,
            Self::AtLeast => value >= limit,
        }
    }

    fn as_str(self) -> &'static str {
        Self::ALL.into_iter().find(|(_, one)| *one == self).map_or("", |(text, _)| text)
    }
}

/// Units of numbers, with their factors.
const UNITS: [(&str, f64); 9] = [
    ("Ki", 1024.0),
    ("Mi", 1024.0 * 1024.0),
    ("Gi", 1024.0 * 1024.0 * 1024.0),
    ("Ti", 1024.0 * 1024.0 * 1024.0 * 1024.0),
    ("k", 1e3),
    ("M", 1e6),
    ("G", 1e9),
    ("T", 1e12),
    ("%", 1.0),
];

/// A selector could not be parsed; names the position.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "selector '{selector}': {problem} at character {offset}; write for example env=prod,site in (a,b),!retired"
)]
pub struct InvalidSelector {
    selector: String,
    problem: String,
    offset: usize,
}

impl Requirement {
    /// The measurement and the field, if it is about a metric.
    #[must_use]
    pub fn metric(&self) -> Option<(&str, &str)> {
        match self.test {
            Test::Measured(..) => self.key.as_str().rsplit_once('.'),
            _ => None,
        }
    }

    /// Whether a key with this value, or without one, matches. Ignores metrics.
    #[must_use]
    pub fn holds(&self, value: Option<&str>) -> bool {
        let one_of = |values: &[LabelValue]| {
            value.is_some_and(|value| values.iter().any(|one| one.as_str() == value))
        };
        match &self.test {
            Test::Exists => value.is_some(),
            Test::Absent => value.is_none(),
            Test::In(values) => one_of(values),
            Test::NotIn(values) => !one_of(values),
            Test::Measured(..) => false,
        }
    }
}

impl Selector {
    /// The requirements on metrics.
    pub fn measured(&self) -> impl Iterator<Item = &Requirement> {
        self.0.iter().filter(|requirement| requirement.metric().is_some())
    }
}

/// Whether this key is an attribute of the device rather than a label.
#[must_use]
pub fn is_attribute(key: &str) -> bool {
    matches!(key, "name" | "id" | "status" | ONLINE)
}

/// The key for the connection state; it has no value.
pub const ONLINE: &str = "online";

impl FromStr for Selector {
    type Err = InvalidSelector;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Parser { text, at: 0 }.selector().map_err(|(problem, at)| InvalidSelector {
            selector: text.chars().take(200).collect(),
            problem,
            offset: text.get(..at).map_or(at, |before| before.chars().count()) + 1,
        })
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, Requirement { key, test }) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str(",")?;
            }
            let list = |values: &[LabelValue]| {
                values.iter().map(LabelValue::as_str).collect::<Vec<_>>().join(",")
            };
            match test {
                Test::Exists => write!(f, "{key}")?,
                Test::Absent => write!(f, "!{key}")?,
                Test::In(values) => match values.as_slice() {
                    [one] => write!(f, "{key}={one}")?,
                    many => write!(f, "{key} in ({})", list(many))?,
                },
                Test::NotIn(values) => match values.as_slice() {
                    [one] => write!(f, "{key}!={one}")?,
                    many => write!(f, "{key} notin ({})", list(many))?,
                },
                Test::Measured(comparison, limit) => {
                    write!(f, "{key}{}{limit}", comparison.as_str())?;
                }
            }
        }
        Ok(())
    }
}

type Parsed<T> = Result<T, (String, usize)>;

struct Parser<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Parser<'a> {
    fn rest(&self) -> &'a str {
        self.text.get(self.at..).unwrap_or_default()
    }

    fn skip_spaces(&mut self) {
        let trimmed = self.rest().trim_start();
        self.at = self.text.len() - trimmed.len();
    }

    /// Consumes `token` if it comes next.
    fn take(&mut self, token: &str) -> bool {
        self.skip_spaces();
        let found = self.rest().starts_with(token);
        if found {
            self.at += token.len();
        }
        found
    }

    fn fail<T>(&self, problem: impl Into<String>) -> Parsed<T> {
        Err((problem.into(), self.at))
    }

    /// The run of characters that are allowed in a key or a value.
    fn word(&mut self) -> (&'a str, usize) {
        self.skip_spaces();
        let start = self.at;
        let rest = self.rest();
        let end =
            rest.find(|c: char| c.is_whitespace() || "=!,()<>".contains(c)).unwrap_or(rest.len());
        self.at += end;
        (rest.get(..end).unwrap_or_default(), start)
    }

    fn key(&mut self) -> Parsed<LabelKey> {
        let (word, start) = self.word();
        if word.is_empty() {
            return Err(("a key is missing".to_owned(), start));
        }
        word.parse().map_err(|error: crate::names::InvalidName| (error.to_string(), start))
    }

    fn value(&mut self) -> Parsed<LabelValue> {
        let (word, start) = self.word();
        word.parse().map_err(|error: crate::names::InvalidName| (error.to_string(), start))
    }

    fn number(&mut self) -> Parsed<f64> {
        let (word, start) = self.word();
        let unit = UNITS.iter().find(|(unit, _)| word.ends_with(unit));
        let (digits, worth) =
            unit.map_or((word, 1.0), |(unit, worth)| (word.trim_end_matches(unit), *worth));
        let is_plain = digits.bytes().all(|byte| byte.is_ascii_digit() || b".-e".contains(&byte));
        let number = digits.parse::<f64>().ok().filter(|number| is_plain && number.is_finite());
        number.map(|number| number * worth).filter(|number| number.is_finite()).ok_or_else(|| {
            (format!("'{word}' is not a number; write for example 20, 0.5, 500Mi, 80%"), start)
        })
    }

    /// Whether a value comes next, rather than the next requirement or the end.
    fn takes_value(&mut self) -> bool {
        self.skip_spaces();
        !(self.rest().is_empty() || self.rest().starts_with(','))
    }

    fn values(&mut self) -> Parsed<Vec<LabelValue>> {
        if !self.take("(") {
            return self.fail("'(' is missing");
        }
        let mut values = vec![self.value()?];
        while self.take(",") {
            if values.len() == MAX_VALUES {
                return self.fail(format!("more than {MAX_VALUES} values"));
            }
            values.push(self.value()?);
        }
        if !self.take(")") {
            return self.fail("')' is missing");
        }
        Ok(values)
    }

    fn requirement(&mut self) -> Parsed<Requirement> {
        if self.take("!") {
            return Ok(Requirement { key: self.key()?, test: Test::Absent });
        }
        let key = self.key()?;
        let comparison = Comparison::ALL.into_iter().find(|(text, _)| self.take(text));
        let test = if let Some((_, comparison)) = comparison {
            if !key.as_str().contains('.') {
                return self.fail(format!(
                    "'{key}' is not a metric; compare a number with a metric such as mem.available"
                ));
            }
            Test::Measured(comparison, self.number()?)
        } else if key.as_str() == ONLINE && self.takes_value() {
            return self.fail("'online' takes no value; write 'online' or '!online'");
        } else if self.take("!=") {
            Test::NotIn(vec![self.value()?])
        } else if self.take("==") || self.take("=") {
            Test::In(vec![self.value()?])
        } else {
            let before = self.at;
            match self.word().0 {
                "in" => Test::In(self.values()?),
                "notin" => Test::NotIn(self.values()?),
                "" => Test::Exists,
                other => {
                    return Err((
                        format!("'{other}' is not an operator (=, !=, in, notin, <, <=, >, >=)"),
                        before,
                    ));
                }
            }
        };
        Ok(Requirement { key, test })
    }

    fn selector(mut self) -> Parsed<Selector> {
        self.skip_spaces();
        if self.rest().is_empty() {
            return Ok(Selector::default());
        }
        let mut requirements = vec![self.requirement()?];
        while self.take(",") {
            if requirements.len() == MAX_REQUIREMENTS {
                return self.fail(format!("more than {MAX_REQUIREMENTS} requirements"));
            }
            requirements.push(self.requirement()?);
        }
        self.skip_spaces();
        if self.rest().is_empty() {
            Ok(Selector(requirements))
        } else {
            self.fail("',' is missing")
        }
    }
}

#[cfg(test)]
mod tests;
