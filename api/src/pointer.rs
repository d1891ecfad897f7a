//! JSON Pointers (RFC 6901) into the body of a request.

use std::fmt;

use serde_path_to_error::{Path, Segment};

/// A JSON Pointer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Pointer(Vec<String>);

impl Pointer {
    /// Parses a pointer.
    pub(crate) fn parse(text: &str) -> Self {
        let unescape = |part: &str| part.replace("~1", "/").replace("~0", "~");
        Self(text.split('/').skip(1).map(unescape).collect())
    }

    /// Returns the pointer to a field by its names, such as `target.devices`.
    pub(crate) fn of_field(field: &str) -> Self {
        Self(field.split('.').filter(|part| !part.is_empty()).map(str::to_owned).collect())
    }

    /// Returns the pointer of serde's path.
    pub(crate) fn of_path(path: &Path) -> Self {
        let part = |segment: &Segment| match segment {
            Segment::Seq { index } => Some(index.to_string()),
            Segment::Map { key } => Some(key.clone()),
            Segment::Enum { .. } | Segment::Unknown => None,
        };
        Self(path.iter().filter_map(part).collect())
    }

    /// Returns the pointer to a part of this one.
    pub(crate) fn join(&self, name: &str) -> Self {
        let mut parts = self.0.clone();
        parts.push(name.to_owned());
        Self(parts)
    }

    /// Whether it ends with this name.
    pub(crate) fn ends_with(&self, name: &str) -> bool {
        self.0.last().is_some_and(|last| last == name)
    }

    /// Returns it for people: `target.devices`, or `body` for all of it.
    pub(crate) fn display_name(&self) -> String {
        if self.0.is_empty() { "body".to_owned() } else { self.0.join(".") }
    }
}

impl fmt::Display for Pointer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for part in &self.0 {
            write!(f, "/{}", part.replace('~', "~0").replace('/', "~1"))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pointers_are_escaped() {
        let pointer = Pointer::default().join("labels").join("a/b~c").join("0");
        assert_eq!(pointer.to_string(), "/labels/a~1b~0c/0");
        assert_eq!(Pointer::parse(&pointer.to_string()), pointer);
        assert_eq!(Pointer::parse(""), Pointer::default());
        assert_eq!(Pointer::default().display_name(), "body");
    }
}
