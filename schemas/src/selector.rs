//! The label selector language: `env=prod,site in (a,b),!retired`.
//!
//! Requirements are joined by `,` and must all hold. A requirement is `key`, `!key`, `key=value`
//! (or `==`), `key!=value`, `key in (a,b)` or `key notin (a,b)`; as in Kubernetes, `!=` and `notin`
//! also hold where the key is absent. The keys `name`, `id` and `status` mean the device's own.

use std::fmt;
use std::str::FromStr;

use crate::names::{LabelKey, LabelValue, Labels};

/// At most this many requirements in one selector.
pub const MAX_REQUIREMENTS: usize = 32;
/// At most this many values in one `in (…)`.
pub const MAX_VALUES: usize = 256;

/// Requirements that must all hold; an empty selector selects everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selector(pub Vec<Requirement>);

/// One condition on one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Requirement {
    /// The label's key, or `name`, `id`, `status`.
    pub key: LabelKey,
    /// What must be true of it.
    pub test: Test,
}

/// What must be true of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Test {
    /// The key is there.
    Exists,
    /// The key is not there.
    Absent,
    /// The key has one of these values.
    In(Vec<LabelValue>),
    /// The key is absent or has none of these values.
    NotIn(Vec<LabelValue>),
}

/// A selector could not be read; names the place.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "selector '{selector}': {problem} at character {at}; write for example env=prod,site in (a,b),!retired"
)]
pub struct InvalidSelector {
    selector: String,
    problem: String,
    at: usize,
}

impl Selector {
    /// Does a device with these labels and own attributes match?
    ///
    /// `attribute` answers for `name`, `id` and `status`.
    pub fn matches<'a>(
        &self,
        labels: &'a Labels,
        attribute: impl Fn(&str) -> Option<&'a str>,
    ) -> bool {
        self.0.iter().all(|requirement| {
            let key = requirement.key.as_str();
            let value = if is_attribute(key) {
                attribute(key)
            } else {
                labels.get(&requirement.key).map(LabelValue::as_str)
            };
            let one_of = |values: &[LabelValue]| {
                value.is_some_and(|value| values.iter().any(|one| one.as_str() == value))
            };
            match &requirement.test {
                Test::Exists => value.is_some(),
                Test::Absent => value.is_none(),
                Test::In(values) => one_of(values),
                Test::NotIn(values) => !one_of(values),
            }
        })
    }
}

/// Is this key one of the device's own attributes rather than a label?
#[must_use]
pub fn is_attribute(key: &str) -> bool {
    matches!(key, "name" | "id" | "status")
}

impl FromStr for Selector {
    type Err = InvalidSelector;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Parser { text, at: 0 }.selector().map_err(|(problem, at)| InvalidSelector {
            selector: text.chars().take(200).collect(),
            problem,
            at: text.get(..at).map_or(at, |before| before.chars().count()) + 1,
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

    /// Takes `token` if it comes next.
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

    /// The run of characters that can stand in a key or a value.
    fn word(&mut self) -> (&'a str, usize) {
        self.skip_spaces();
        let start = self.at;
        let rest = self.rest();
        let end =
            rest.find(|c: char| c.is_whitespace() || "=!,()".contains(c)).unwrap_or(rest.len());
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
        let test = if self.take("!=") {
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
                    return Err((format!("'{other}' is no operator (=, !=, in, notin)"), before));
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
