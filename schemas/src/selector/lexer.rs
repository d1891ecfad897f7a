//! The words of a selector's text: names, values, operators.

use super::similar::nearest;

/// Characters that end a word without quotation marks.
const ENDS: &str = "=!,()<>[]\"'";
const OPERATORS: [&str; 7] = ["<=", ">=", "!=", "==", "<", ">", "="];

/// What is wrong, and at which byte.
#[derive(Debug)]
pub(super) struct Problem {
    pub(super) text: String,
    pub(super) at: usize,
}

pub(super) type Parsed<T> = Result<T, Problem>;

/// A name, as it was written.
pub(super) enum Part<'a> {
    Bare(&'a str),
    Quoted(&'a str),
}

impl<'a> Part<'a> {
    pub(super) const fn text(&self) -> &'a str {
        match self {
            Self::Bare(text) | Self::Quoted(text) => text,
        }
    }
}

/// A position in the text.
pub(super) struct Lexer<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Lexer<'a> {
    pub(super) const fn new(text: &'a str) -> Self {
        Self { text, at: 0 }
    }

    fn rest(&self) -> &'a str {
        self.text.get(self.at..).unwrap_or_default()
    }

    fn skip_spaces(&mut self) {
        self.at = self.text.len() - self.rest().trim_start().len();
    }

    /// Position of the next word.
    pub(super) fn position(&mut self) -> usize {
        self.skip_spaces();
        self.at
    }

    pub(super) fn is_at_end(&mut self) -> bool {
        self.skip_spaces();
        self.rest().is_empty()
    }

    /// A problem at the next word.
    pub(super) fn fail<T>(&mut self, text: impl Into<String>) -> Parsed<T> {
        Err(Problem { text: text.into(), at: self.position() })
    }

    fn end_of_word(text: &str) -> usize {
        text.find(|c: char| c.is_whitespace() || ENDS.contains(c)).unwrap_or(text.len())
    }

    /// The next word or sign, for a message.
    pub(super) fn peek(&mut self) -> &'a str {
        self.skip_spaces();
        let rest = self.rest();
        let sign = rest.chars().next().map_or(0, char::len_utf8);
        rest.get(..Self::end_of_word(rest).max(sign)).unwrap_or_default()
    }

    /// Takes these characters, after spaces.
    pub(super) fn take(&mut self, token: &str) -> bool {
        self.skip_spaces();
        self.take_adjacent(token)
    }

    /// Takes these characters without spaces before them.
    pub(super) fn take_adjacent(&mut self, token: &str) -> bool {
        let found = self.is_next(token);
        if found {
            self.at += token.len();
        }
        found
    }

    /// Takes the start of a name.
    pub(super) fn take_prefix(&mut self, prefix: &str) -> bool {
        self.take(prefix)
    }

    /// Takes a whole word.
    pub(super) fn take_word(&mut self, word: &str) -> bool {
        self.peek() == word && self.take(word)
    }

    /// Takes `not` or `!`.
    pub(super) fn take_not(&mut self) -> bool {
        self.take_word("not") || (!self.rest().starts_with("!=") && self.take("!"))
    }

    pub(super) fn is_next(&self, token: &str) -> bool {
        self.rest().starts_with(token)
    }

    pub(super) fn is_next_quote(&self) -> bool {
        self.rest().starts_with(['"', '\''])
    }

    /// A text in quotation marks; there are no escapes.
    fn quoted(&mut self) -> Parsed<&'a str> {
        let mut chars = self.rest().chars();
        let mark = chars.next().unwrap_or('"');
        let inner = chars.as_str();
        let Some(end) = inner.find(mark) else {
            return self.fail(format!("the closing {mark} is missing"));
        };
        let text = inner.get(..end).unwrap_or_default();
        let text = self.printable(text)?;
        self.at += end + 2;
        Ok(text)
    }

    fn bare(&mut self) -> Parsed<&'a str> {
        let rest = self.rest();
        let word = self.printable(rest.get(..Self::end_of_word(rest)).unwrap_or_default())?;
        self.at += word.len();
        Ok(word)
    }

    fn printable(&mut self, text: &'a str) -> Parsed<&'a str> {
        if text.chars().any(char::is_control) {
            return self.fail("a text contains a control character");
        }
        Ok(text)
    }

    /// Takes a name or a part of one; nothing before a sign.
    pub(super) fn part(&mut self) -> Parsed<Part<'a>> {
        Ok(if self.is_next_quote() {
            Part::Quoted(self.quoted()?)
        } else {
            Part::Bare(self.bare()?)
        })
    }

    /// Takes a value, and returns its position too; it may be empty.
    pub(super) fn value(&mut self) -> Parsed<(&'a str, usize)> {
        let at = self.position();
        let value = self.part()?.text();
        Ok((value, at))
    }

    /// The next operator, if there is one.
    pub(super) fn peek_operator(&mut self) -> Option<&'static str> {
        self.skip_spaces();
        let sign = OPERATORS.into_iter().find(|operator| self.is_next(operator));
        sign.or_else(|| match self.peek() {
            "in" => Some("in"),
            "notin" => Some("notin"),
            "not" => {
                let after = self.rest().trim_start_matches("not").trim_start();
                after.get(..Self::end_of_word(after)).filter(|word| *word == "in").map(|_| "notin")
            }
            _ => None,
        })
    }

    /// Takes the next operator, if there is one.
    pub(super) fn take_operator(&mut self) -> Option<&'static str> {
        let operator = self.peek_operator()?;
        if operator == "notin" && self.take_word("not") {
            self.take_word("in");
        } else {
            self.take(operator);
        }
        Some(operator)
    }

    /// Checks that nothing follows a key that could have been meant as its operator.
    pub(super) fn check_alone<T>(&mut self) -> Parsed<Option<T>> {
        let next = self.peek();
        if ["", ",", ")", "and", "or"].contains(&next) {
            return Ok(None);
        }
        let hint = match nearest(next, ["and", "or", "in", "notin"]) {
            Some(near) => format!("; did you mean '{near}'?"),
            None if next.starts_with('&') => "; did you mean 'and'?".to_owned(),
            None if next.starts_with('|') => "; did you mean 'or'?".to_owned(),
            None => String::new(),
        };
        self.fail(format!(
            "expected an operator (=, !=, in, notin, <, <=, >, >=), ',', 'and', 'or' or the end, \
             found '{next}'{hint}"
        ))
    }
}
